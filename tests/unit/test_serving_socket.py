"""The server's socket."""

from __future__ import annotations

import socket

from ko_reranker.serving.server import reserve


def test_answers_on_a_kept_connection_are_sent_at_once() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        # asyncio turns Nagle's algorithm off only for sockets that name their protocol.
        assert reserved.proto == socket.IPPROTO_TCP
