"""The server's socket."""

from __future__ import annotations

import socket

import pytest

from ko_reranker.serving.server import CannotListen, reserve


def test_answers_on_a_kept_connection_are_sent_at_once() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        # asyncio turns Nagle's algorithm off only for sockets that name their protocol.
        assert reserved.proto == socket.IPPROTO_TCP


def test_an_address_that_cannot_be_had_is_named_with_the_flag_that_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CannotListen, match=r"in use.*--port"):
        reserve("127.0.0.1", taken.getsockname()[1])
    for elsewhere in ("192.0.2.1", "no such host"):
        with pytest.raises(CannotListen, match=rf"{elsewhere}:8080 .*--host"):
            reserve(elsewhere, 8080)
