"""SageMaker's runtime API as a real HTTP server on this machine, which answers, fails, sleeps or hangs up as a test says."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local_cloud.tls import Certificate

Act = Callable[["_Handler", bytes], None]


class SageMakerServer:
    """Acts in the order in which the test says what to do, one act a request.

    Args:
        certificate: what it shows over TLS; None speaks plain HTTP.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.waiting: deque[Act] = deque()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.sockets: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.chain, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SageMakerServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        self.waiting.clear()
        self.requests.clear()
        self.connections = 0

    def scores(self, logits: Sequence[float], truncated: Sequence[bool] | None = None) -> None:
        self.answers(json.dumps(_logits(logits, truncated)).encode())

    def score_with(self, logit: Callable[[str], float], times: int = 1) -> None:
        """Score the documents that come, in the next calls."""

        def act(handler: _Handler, body: bytes) -> None:
            handler.reply(200, json.dumps(_logits([logit(text) for text in json.loads(body)["documents"]])).encode())

        self.waiting.extend([act] * times)

    def answers(self, body: bytes) -> None:
        self.waiting.append(lambda handler, _: handler.reply(200, body))

    def fails(self, code: str, message: str = "", status: int = 400, **members: Any) -> None:
        body = json.dumps({"Message": message, **members}).encode()
        self.waiting.append(lambda handler, _: handler.reply(status, body, {"x-amzn-ErrorType": code}))

    def sleeps(self, seconds: float) -> None:
        self.waiting.append(lambda handler, _: time.sleep(seconds))

    def drips(self, pieces: int, seconds: float) -> None:
        """Answer, but one byte of the body at a time."""

        def act(handler: _Handler, _: bytes) -> None:
            handler.start(200, {"Content-Length": str(pieces)})
            try:
                for _piece in range(pieces):
                    time.sleep(seconds)
                    handler.wfile.write(b" ")
                    handler.wfile.flush()
            except OSError:
                handler.close_connection = True  # whoever asked has gone

        self.waiting.append(act)

    def cuts_off(self, after: bytes = b"", *, abruptly: bool = False) -> None:
        self.waiting.append(lambda handler, _: handler.hang_up(after, abruptly))

    def close_connections(self) -> None:
        for connection in self.sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets.clear()
        time.sleep(0.05)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner: SageMakerServer = self.server.owner  # type: ignore[attr-defined]
        self.owner.connections += 1
        self.owner.sockets.append(self.connection)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.requests.append((self.path, dict(self.headers), body))
        self.owner.waiting.popleft()(self, body)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.start(status, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def hang_up(self, after: bytes, abruptly: bool) -> None:
        self.wfile.write(after)
        self.wfile.flush()
        if abruptly:  # closed like this, it sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _logits(logits: Sequence[float], truncated: Sequence[bool] | None = None) -> dict[str, Any]:
    return {
        "logits": list(logits),
        "tokens": [7] * len(logits),
        "truncated": list(truncated or [False] * len(logits)),
        "model": "run-1",
        "max_length": 512,
    }
