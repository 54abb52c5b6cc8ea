"""What the server has taken in and not answered yet. Bounding it bounds the memory, whatever arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from ..protocol import ProtocolError, busy
from .options import ServingOptions

_RETRY_AFTER_SECONDS = 1


class Intake:
    """Counts requests and the bytes of their bodies while they are in the house; lives on the event loop.

    Attributes:
        requests: how many there are.
        bytes: the bodies of all of them together.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def admit(self) -> Iterator[Callable[[int], None]]:
        """Count a request while the block runs; what is yielded counts bytes of its body, before they are kept.

        Raises:
            ProtocolError: 429, from here or from what is yielded, when there are too many.
        """
        if self.requests > self._options.max_waiting:
            raise busy(f"{self.requests} requests are waiting: come again", _RETRY_AFTER_SECONDS)
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            # A body that is alone is let in: its own limit has been checked.
            if self.bytes > held and self.bytes + count > self._options.max_waiting_bytes:
                raise busy(f"requests of {self.bytes / 1e6:.0f} MB are waiting: come again", _RETRY_AFTER_SECONDS)
            held += count
            self.bytes += count

        self.requests += 1
        try:
            yield hold
        finally:
            self.requests -= 1
            self.bytes -= held


async def read_body(request: Request, limit: int, hold: Callable[[int], None]) -> bytes:
    """Return a request's body.

    Raises:
        ProtocolError: 413 past the limit; 429 when ``hold`` finds that there is no room.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        hold(len(chunk))
        body += chunk
    return bytes(body)


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError(413, f"the body is over the limit of {limit / 1e6:g} MB: send fewer documents at a time")
