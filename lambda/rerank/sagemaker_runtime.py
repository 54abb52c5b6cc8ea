"""InvokeEndpoint over kept connections: the one call that this function makes, and never twice for one request."""

# Not runtime_client.py: Lambda's own runtime has a module of that name.
from __future__ import annotations

import http.client
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from signing import Credentials, signed_headers

_CONNECT_SECONDS = 1.0
# A connection that idled longer is not used again: its other end may have gone unnoticed while this function was frozen, and
# what was sent once is not sent again, because nobody can tell whether it was scored.
_KEPT_SECONDS = 10.0
_PIECE_BYTES = 65_536


class EndpointError(Exception):
    """SageMaker answered with an error.

    Attributes:
        code: AWS's name of it, such as ``ModelError``.
        status: of the HTTP answer.
        members: what the answer says, ``Message`` and, of a ModelError, ``OriginalStatusCode`` and ``OriginalMessage``.
    """

    def __init__(self, code: str, status: int, members: Mapping[str, Any]) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.members = members


class ConnectionFailed(Exception):
    """There was no answer; the message is the kind of failure."""


class TooSlow(Exception):
    """There was no answer in time."""


@dataclass
class RuntimeClient:
    """Calls SageMaker's runtime API.

    Attributes:
        region: where the endpoint is.
        url: of the API.
        credentials: returns what signs a request.
    """

    region: str
    url: str
    credentials: Callable[[], Credentials]
    _idle: list[tuple[float, _Connection]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tls: ssl.SSLContext | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RuntimeClient:
        """Return the client of a Lambda function, whose environment names region and, in tests, the URL."""
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        url = (
            environment.get("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME")
            or environment.get("AWS_ENDPOINT_URL")
            or f"https://runtime.sagemaker.{region}.{suffix}"
        )
        client = cls(region, url, lambda: Credentials.from_environment(os.environ))
        if url.startswith("https:"):
            client._tls = ssl.create_default_context(cafile=environment.get("AWS_CA_BUNDLE") or None)
        return client

    def invoke(self, endpoint: str, body: bytes, inference_id: str, seconds: float, on_call: Callable[[], None]) -> bytes:
        """Return what the endpoint answers to a JSON body.

        Args:
            endpoint: its name.
            inference_id: shown in the container's log.
            seconds: how long the answer may take.
            on_call: called for every request that leaves.

        Raises:
            EndpointError, ConnectionFailed, TooSlow.
        """
        deadline = time.monotonic() + seconds
        path = f"/endpoints/{quote(endpoint, safe='')}/invocations"
        connection = self._take() or self._connect(deadline)
        return self._send(connection, path, body, inference_id, deadline, on_call)

    def _send(
        self,
        connection: _Connection,
        path: str,
        body: bytes,
        inference_id: str,
        deadline: float,
        on_call: Callable[[], None],
    ) -> bytes:
        on_call()
        try:
            sock = connection.sock
            sock.settimeout(_left(deadline))
            connection.request("POST", path, body, self._headers(connection.netloc, path, body, inference_id))
            response = connection.getresponse()
            answer = _read(response, sock, deadline)
        except TimeoutError:
            connection.close()
            raise TooSlow("TimeoutError") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConnectionFailed(type(error).__name__) from None
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        if response.status != 200:
            raise _error(response, answer)
        return answer

    def _headers(self, host: str, path: str, body: bytes, inference_id: str) -> dict[str, str]:
        headers = {
            "Host": host,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "X-Amzn-SageMaker-Inference-Id": inference_id,
        }
        return signed_headers(
            self.credentials(),
            region=self.region,
            service="sagemaker",
            method="POST",
            path=path,
            headers=headers,
            body=body,
        )

    def _connect(self, deadline: float) -> _Connection:
        target = urlsplit(self.url)
        kind = _TlsConnection if target.scheme == "https" else _Connection
        more = {"context": self._tls} if target.scheme == "https" else {}
        seconds = min(_CONNECT_SECONDS, _left(deadline))
        connection = kind(target.hostname or "", target.port, timeout=seconds, **more)
        connection.netloc = target.netloc
        try:
            connection.connect()
        except OSError as error:
            raise ConnectionFailed(f"connecting: {type(error).__name__}") from None
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _take(self) -> _Connection | None:
        """Return a kept connection that is still good; the last one used comes first."""
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < _KEPT_SECONDS and not _has_ended(connection.sock):
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            self._idle.append((time.monotonic(), connection))


class _Connection(http.client.HTTPConnection):
    netloc = ""


class _TlsConnection(http.client.HTTPSConnection):
    netloc = ""


def _has_ended(sock: socket.socket) -> bool:
    """Return whether the other side has closed: there is something to read where nothing is due."""
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))


def _read(response: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """Return the whole body; a socket's timeout bounds each piece of it, the deadline all of them."""
    body = bytearray()
    while piece := response.read1(_PIECE_BYTES):
        body += piece
        sock.settimeout(_left(deadline))
    if response.length:
        raise http.client.IncompleteRead(bytes(body), response.length)
    response.close()  # of the answer, not of the connection: the next request may go out on it
    return bytes(body)


def _left(deadline: float) -> float:
    # Zero would mean not to wait at all, which is another error.
    return max(deadline - time.monotonic(), 0.001)


def _error(response: http.client.HTTPResponse, body: bytes) -> EndpointError:
    try:
        members = json.loads(body)
    except ValueError:
        members = {}
    if not isinstance(members, dict):
        members = {}
    code = response.headers.get("x-amzn-ErrorType") or members.get("__type") or members.get("code") or "Unknown"
    members.setdefault("Message", members.get("message", ""))
    return EndpointError(str(code).split(":")[0].split("#")[-1], response.status, members)
