"""What the server has taken in and not answered yet. Bounding it bounds the memory, whatever arrives, and however slowly.

A request has a place only once it is whole. Until then it holds what has arrived of its body, and no longer than it keeps
arriving: a sender that stops, or trickles, takes nothing from anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from ..protocol import ProtocolError, busy
from .options import ServingOptions

_RETRY_AFTER_SECONDS = 1
# A body that is not whole yet brings at least this much in this time, or is given up.
_PROGRESS_BYTES, PROGRESS_SECONDS = 65_536, 15.0
# Where bytes are short, bodies that have not moved on for so long make room for those that do.
STALLED_SECONDS = 1.0
# What does not come to its end cannot be told from what comes next on the same connection.
_CLOSE = {"Connection": "close"}


class Intake:
    """Counts requests and the bytes of their bodies until they are answered; lives on the event loop.

    Attributes:
        requests: how many whole ones there are, waiting or being scored.
        bytes: what has arrived of the bodies of all, of those that are not whole, too.
    """

    def __init__(self, options: ServingOptions) -> None:
        self.options = options
        self.requests = 0
        self.bytes = 0
        self._arriving: dict[Body, None] = {}  # in the order in which they last moved on

    @property
    def in_progress(self) -> int:
        """How many requests there are, those that are still arriving included."""
        return self.requests + len(self._arriving)

    @contextmanager
    def admit(self) -> Iterator[Body]:
        """Hold a body, and then the place of its request, until the block ends.

        Raises:
            ProtocolError: 429 when there are too many requests already.
        """
        self._check_places()
        body = Body(self)
        self._arriving[body] = None
        try:
            yield body
        finally:
            self._arriving.pop(body, None)
            self.requests -= body.whole
            self.bytes -= body.held

    def moved_on(self, body: Body) -> None:
        """Take note that a body keeps arriving."""
        self._arriving.pop(body)
        self._arriving[body] = None

    def take_place(self, body: Body) -> None:
        """Give the request of a body that is whole its place.

        Raises:
            ProtocolError: 429 when there is none.
        """
        self._check_places()
        self._arriving.pop(body)
        self.requests += 1

    def make_room(self, count: int, body: Body) -> None:
        """See that so many bytes more of a body may be held, at the cost of those that do not move on.

        Raises:
            ProtocolError: 429 when there is no room.
        """
        most = self.options.max_waiting_bytes
        stalled = time.monotonic() - STALLED_SECONDS
        for other in list(self._arriving):
            if self.bytes + count <= most or other.moved > stalled:
                break
            if other is not body:
                del self._arriving[other]
                other.give_up()
        # A body that is alone is let in: its own limit has been checked.
        if self.bytes > body.held and self.bytes + count > most:
            raise busy(f"requests of {self.bytes / 1e6:.0f} MB are waiting: come again", _RETRY_AFTER_SECONDS)

    def _check_places(self) -> None:
        if self.requests > self.options.max_waiting:
            raise busy(f"{self.requests} requests are waiting: come again", _RETRY_AFTER_SECONDS)


class Body:
    """The body of one request, as far as it has arrived.

    Attributes:
        held: the bytes that count as held.
        moved: when it last moved on, on the clock of `time.monotonic`.
        whole: whether all of it is there.
    """

    def __init__(self, intake: Intake) -> None:
        self.held = 0
        self.moved = time.monotonic()
        self.whole = False
        self._intake = intake
        self._parts = bytearray()
        self._timeout: asyncio.Timeout | None = None
        self._given_up = False

    async def read(self, request: Request, deadline: float) -> bytes:
        """Return the body, once all of it is there.

        Args:
            request: whose body it is.
            deadline: when it must be there, on the clock of `time.monotonic`.

        Raises:
            ProtocolError: 413 past the limit; 408 when it does not arrive in time; 429 when there is no room for it.
        """
        limit = self._intake.options.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(None) as timeout:
                self._timeout = timeout
                _allow(timeout, deadline)
                progress = 0
                async for chunk in request.stream():
                    self._hold(chunk, limit)
                    progress += len(chunk)
                    if progress >= _PROGRESS_BYTES:
                        progress = 0
                        self.moved = time.monotonic()
                        self._intake.moved_on(self)
                        _allow(timeout, deadline)
        except TimeoutError:
            if self._given_up:
                error = busy("the body stopped arriving while others needed the room", _RETRY_AFTER_SECONDS)
            else:
                error = ProtocolError(408, "the body did not arrive in time: send it without pauses")
            error.headers |= _CLOSE
            raise error from None
        self._intake.take_place(self)
        self.whole = True
        return bytes(self._parts)

    def grow(self, size: int) -> None:
        """Count a body that turned out to be larger, once decompressed.

        Raises:
            ProtocolError: 429 when there is no room.
        """
        more = max(0, size - self.held)
        self._intake.make_room(more, self)
        self.held += more
        self._intake.bytes += more

    def give_up(self) -> None:
        """Let go of what has arrived, for good."""
        self._given_up = True
        self._intake.bytes -= self.held
        self.held = 0
        self._parts.clear()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    def _hold(self, chunk: bytes, limit: int) -> None:
        if self._given_up:
            raise TimeoutError
        if self.held + len(chunk) > limit:
            raise _too_large(limit)
        self._intake.make_room(len(chunk), self)
        self.held += len(chunk)
        self._intake.bytes += len(chunk)
        self._parts += chunk


def _allow(timeout: asyncio.Timeout, deadline: float) -> None:
    left = min(deadline - time.monotonic(), PROGRESS_SECONDS)
    timeout.reschedule(asyncio.get_running_loop().time() + left)


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError(413, f"the body is over the limit of {limit / 1e6:g} MB: send fewer documents at a time")
