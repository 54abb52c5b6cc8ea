"""AWS over kept connections, InvokeEndpoint first of all: what was sent once is never sent again for the same request."""

# Not runtime_client.py: Lambda's own runtime has a module of that name.
from __future__ import annotations

import functools
import http.client
import itertools
import json
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from signing import Credentials, signed_headers

from ko_reranker.protocol import TIMEOUT_HEADER, write_timeout

# What the first attempt to connect may take, TLS included; each after it may take twice as long, and comes after a pause of at
# most so many seconds that doubles, too. A function that has just started shares its CPU among many handshakes.
CONNECT_SECONDS, _PAUSE_SECONDS = 1.0, 0.05
# A host that has no address, or refuses, is not busy: so many attempts are enough to tell.
_MOST_REFUSALS = 4
# A connection that idled longer is not used again: its other end may have gone unnoticed while this function was frozen, and
# what was sent once is not sent again, because nobody can tell whether it was scored.
KEPT_SECONDS = 10.0
_PIECE_BYTES = 65_536


class EndpointError(Exception):
    """AWS answered with an error.

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


class NotConnected(Exception):
    """There was no connection, in spite of several attempts: nothing was sent. The message is the kind of failure.

    Attributes:
        outage: whether there is nobody to connect to, rather than somebody who is busy.
    """

    def __init__(self, message: str, *, outage: bool) -> None:
        super().__init__(message)
        self.outage = outage


class TooSlow(Exception):
    """There was no answer in time."""


@dataclass
class AwsClient:
    """Posts signed requests to one service of AWS over connections that are kept.

    Attributes:
        region: where the service is.
        url: of its API.
        credentials: returns what signs a request.
        connect_seconds: what the first attempt to connect may take.
        kept_seconds: how long a connection may idle to be used again.
    """

    service: ClassVar[str]
    """What signatures call the service."""
    host: ClassVar[str]
    """What begins the name of its host."""
    variable: ClassVar[str]
    """The environment variable that names another URL, in tests."""

    region: str
    url: str
    credentials: Callable[[], Credentials]
    connect_seconds: float = CONNECT_SECONDS
    kept_seconds: float = KEPT_SECONDS
    _idle: list[tuple[float, _Connection | _TlsConnection]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tls: ssl.SSLContext | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the client of a Lambda function, whose environment names region and, in tests, the URL."""
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        url = environment.get(cls.variable) or environment.get("AWS_ENDPOINT_URL") or f"https://{cls.host}.{region}.{suffix}"
        client = cls(region, url, lambda: Credentials.from_environment(os.environ))
        if url.startswith("https:"):
            client._tls = _tls_context(environment.get("AWS_CA_BUNDLE") or None)
        return client

    def post(
        self,
        path: str,
        body: bytes,
        headers: Callable[[float], Mapping[str, str]],
        deadline: float,
        on_call: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Return the body of the answer to a request, which is sent once.

        Args:
            path: encoded, without a query.
            headers: returns those of the request, but for its host and signature, from the seconds that are left for it.
            deadline: when the answer must be there, on the clock of `time.monotonic`.
            on_call: called when a request leaves.

        Raises:
            EndpointError, NotConnected, ConnectionFailed, TooSlow.
        """
        connection = self._take() or self._connect(deadline)
        on_call()
        try:
            sock = connection.sock
            sock.settimeout(_left(deadline))
            connection.request("POST", path, body, self._signed(connection.netloc, path, body, headers(_left(deadline))))
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

    def _signed(self, host: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        return signed_headers(
            self.credentials(),
            region=self.region,
            service=self.service,
            method="POST",
            path=path,
            headers={"Host": host, **headers},
            body=body,
        )

    def _connect(self, deadline: float) -> _Connection | _TlsConnection:
        """Return a new connection. Nothing has been sent by then, so there may be as many attempts as there is time for."""
        refusals = 0
        for attempt in itertools.count():
            try:
                return self._try_to_connect(min(self.connect_seconds * 2**attempt, _left(deadline)))
            except ssl.SSLCertVerificationError as error:
                raise NotConnected(type(error).__name__, outage=True) from None
            except OSError as error:
                outage = isinstance(error, (ConnectionRefusedError, socket.gaierror))
                refusals += outage
                pause = random.uniform(0, _PAUSE_SECONDS * 2 ** min(attempt, 5))  # noqa: S311 - keeps callers apart, no secret
                if refusals >= _MOST_REFUSALS or time.monotonic() + pause >= deadline:
                    raise NotConnected(f"connecting: {type(error).__name__}", outage=outage) from None
                time.sleep(pause)
        raise AssertionError("never reached")

    def _try_to_connect(self, seconds: float) -> _Connection | _TlsConnection:
        target = urlsplit(self.url)
        host = target.hostname or ""
        connection: _Connection | _TlsConnection
        if target.scheme == "https":
            connection = _TlsConnection(host, target.port, timeout=seconds, context=self._tls)
        else:
            connection = _Connection(host, target.port, timeout=seconds)
        connection.netloc = target.netloc
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _take(self) -> _Connection | _TlsConnection | None:
        """Return a kept connection that is still good; the last one used comes first."""
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < self.kept_seconds and not _has_ended(connection.sock):
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: _Connection | _TlsConnection) -> None:
        with self._lock:
            self._idle.append((time.monotonic(), connection))


class RuntimeClient(AwsClient):
    """Calls SageMaker's runtime API."""

    service, host, variable = "sagemaker", "runtime.sagemaker", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"

    def invoke(self, endpoint: str, body: bytes, inference_id: str, seconds: float, on_call: Callable[[], None]) -> bytes:
        """Return what the endpoint answers to a JSON body.

        Args:
            endpoint: its name.
            inference_id: shown in the container's log.
            seconds: how long the answer may take.
            on_call: called for every request that leaves.

        Raises:
            EndpointError, NotConnected, ConnectionFailed, TooSlow.
        """

        def headers(left: float) -> dict[str, str]:
            return {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "X-Amzn-SageMaker-Inference-Id": inference_id,
                TIMEOUT_HEADER: write_timeout(left),
            }

        path = f"/endpoints/{quote(endpoint, safe='')}/invocations"
        return self.post(path, body, headers, time.monotonic() + seconds, on_call)


@functools.cache
def _tls_context(authorities: str | None) -> ssl.SSLContext:
    """Return the TLS settings of all clients: reading the certificate authorities is most of a function's start."""
    return ssl.create_default_context(cafile=authorities)


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
