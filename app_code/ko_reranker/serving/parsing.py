"""Requests from bytes, in bounds: a body of very many very small chunks does not occupy the event loop."""

from __future__ import annotations

from typing import Any

import h11

from ..protocol import ProtocolError

_LONGEST_HEAD = 65_536  # bytes
# Each chunk of a body takes time, be it of one byte: so many are parsed until others get their turn, and more than so many
# have to be of a size that an honest client sends.
_CHUNKS_AT_ONCE, _FREE_CHUNKS, _LEAST_CHUNK_BYTES = 500, 10_000, 512


class Parser(h11.Connection):
    """h11's parser for a server, which gives way now and then, and refuses bodies in crumbs.

    Attributes:
        gave_way: whether it stopped before all was parsed that has arrived: `next_event` goes on.
        refusal: what to answer where an error is not about HTTP.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _LONGEST_HEAD)
        self.gave_way = False
        self.refusal: ProtocolError | None = None
        self._in_a_row = self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        """Return what comes next; `h11.PAUSED`, too, when it is others' turn.

        Raises:
            h11.RemoteProtocolError: what arrived is no HTTP, or is refused.
        """
        self.gave_way = self._in_a_row >= _CHUNKS_AT_ONCE
        if self.gave_way:
            self._in_a_row = 0
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._count(event)
        else:
            self._in_a_row = 0
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        return event

    def _count(self, event: h11.Data) -> None:
        self._in_a_row += 1
        self._chunks += event.chunk_start
        self._bytes += len(event.data)
        if self._chunks > _FREE_CHUNKS and self._bytes < self._chunks * _LEAST_CHUNK_BYTES:
            most = f"{_FREE_CHUNKS:,} chunks of less than {_LEAST_CHUNK_BYTES} bytes"
            message = f"the body comes in more than {most}: send larger ones, or the header Content-Length"
            self.refusal = ProtocolError(413, message)
            raise h11.RemoteProtocolError(message)
