"""A server on the loopback interface, run as the command does, and raw senders to it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stub_ranker import StubRanker

from ko_reranker.serving import Metrics, ServingOptions, create_app
from ko_reranker.serving.server import Server, reserve

BODY = {"query": "질문", "documents": ["둘째 문서", "셋째 질문"]}


@dataclass(frozen=True)
class Listening:
    """A server that answers.

    Attributes:
        port: where.
        server: it.
        stop: tells it to drain, and returns when it has ended.
    """

    port: int
    server: Server
    stop: Callable[[], None]

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    @property
    def whole_requests(self) -> int:
        """How many connections wait for the server: it has read all of their request."""
        cycles = [connection.cycle for connection in list(self.server.server_state.connections)]
        return sum(cycle is not None and not cycle.more_body for cycle in cycles)


@contextmanager
def listening(
    options: ServingOptions | None = None, ranker: StubRanker | None = None, metrics: Metrics | None = None
) -> Iterator[Listening]:
    """Run a server until the block ends."""
    options = options or ServingOptions()
    listener = reserve("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(create_app(ranker or StubRanker(), options, metrics), options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=40)
        assert not thread.is_alive(), "the server does not end"

    thread.start()
    try:
        wait_for(lambda: server.started, "the start")
        yield Listening(port, server, stop)
    finally:
        stop()
        listener.close()


def head(path: str = "/rerank", length: int | None = None, *more: str) -> bytes:
    """Return the head of a POST."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def request(body: object = BODY, path: str = "/rerank", *more: str) -> bytes:
    """Return a whole POST."""
    content = json.dumps(body).encode()
    return head(path, len(content), *more) + content


def connect(port: int, first: bytes = b"") -> socket.socket:
    """Return a connection that has sent something."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(first)
    return connection


def ask(
    port: int, body: object = BODY, path: str = "/rerank", *more: str, tls: ssl.SSLContext | None = None
) -> tuple[int, dict]:
    """Return status and body of an answer."""
    with connect(port) as plain:
        connection = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        connection.sendall(request(body, path, "Connection: close", *more))
        return answer(connection)


def answer(connection: socket.socket) -> tuple[int, dict]:
    """Return status and body of the one answer that comes before the other side closes."""
    read = connection.makefile("rb").read()
    start, _, content = read.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(content)


def closed(connection: socket.socket, seconds: float) -> bool:
    """Return whether the other side closes within some seconds, whatever it sends before."""
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something observable happens on the other side."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen")
