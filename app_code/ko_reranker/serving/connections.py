"""The connections of the server: none waits for its client for ever, and there are never more of them than there is room for.

uvicorn has a limit for idle connections only. A sender that opens a connection and says nothing, or half a head, or half a
body, or that never reads its answer, would keep it until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..protocol import ProtocolError, encode_body
from .logs import log
from .parsing import Parser

# Load balancers and the SageMaker front keep connections for a minute: the side that closes first loses requests.
IDLE_SECONDS = 75
HEAD_SECONDS = 10.0
# The app answers a body that stays away, after its own limit; this is for what comes behind an answer that was early.
BODY_EXTRA_SECONDS = 5.0
# How long the other side may take for the end of what has begun, once the connection is to be closed.
_CLOSING_SECONDS = 2.0
# A body that has brought this much is one that moves on.
_PROGRESS_BYTES = 65_536
_BACKLOG = 2048
# Files that the process opens beside its connections, those that it has when it starts to listen not counted.
_SPARE_FILES = 32
_SHORT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.05
_COMPLAINT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a connection may wait for its client, in seconds.

    Attributes:
        head: from the start of a connection, or from the first byte of a request, to the end of its headers.
        body: from there to the end of its body.
        answer: until an answer was read.
        idle: between an answer and the next request.
    """

    head: float
    body: float
    answer: float
    idle: float = IDLE_SECONDS

    @classmethod
    def of(cls, request_timeout: float) -> Patience:
        """Return what goes with the limit of a request."""
        return cls(min(HEAD_SECONDS, request_timeout), request_timeout + BODY_EXTRA_SECONDS, request_timeout)


class Phase(Enum):
    """What a connection waits for."""

    HEAD = auto()
    BODY = auto()
    ANSWER = auto()  # that is ours to give
    IDLE = auto()


class Waiting:
    """The connections that wait for their clients, in the order in which they give up their places to new ones."""

    def __init__(self) -> None:
        # Who has no request yet goes before who is in the middle of one; in each, who has waited longest.
        self._quiet: dict[Connection, None] = {}
        self._sending: dict[Connection, None] = {}

    def put(self, connection: Connection, phase: Phase) -> None:
        """Take note of what a connection waits for from now on."""
        self.drop(connection)
        if phase in (Phase.HEAD, Phase.IDLE):
            self._quiet[connection] = None
        elif phase is Phase.BODY:
            self._sending[connection] = None

    def drop(self, connection: Connection) -> None:
        """Forget a connection."""
        self._quiet.pop(connection, None)
        self._sending.pop(connection, None)

    def show_out(self) -> bool:
        """End the connection that gives up its place next, and return whether there was one."""
        for group in (self._quiet, self._sending):
            for connection in group:
                self.drop(connection)
                connection.leave()
                return True
        return False


class Connection(H11Protocol):
    """A connection that ends when its client takes too long.

    Args:
        config, server_state, app_state: uvicorn's.
        patience: for how long it waits.
        waiting: where it stands while it does.
    """

    conn: Parser

    def __init__(self, config: Any, server_state: Any, app_state: Any, *, patience: Patience, waiting: Waiting) -> None:
        super().__init__(config, server_state, app_state)
        self.conn = Parser()
        self._going_on: asyncio.Handle | None = None
        self._seconds = {Phase.HEAD: patience.head, Phase.BODY: patience.body, Phase.IDLE: patience.idle}
        self._answer_seconds = patience.answer
        self._waiting = waiting
        self._phase: Phase | None = None
        self._progress = 0
        self._timer: asyncio.TimerHandle | None = None  # for what the client is to send
        self._end: asyncio.TimerHandle | None = None  # for what it is to read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._waiting.drop(self)
        for timer in (self._timer, self._end, self._going_on):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._progress += len(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_in(self._answer_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._end is not None and not self.transport.is_closing():
            self._end.cancel()
            self._end = None

    def shutdown(self) -> None:
        """Answer what has arrived, and wait no longer for what hasn't."""
        if self.cycle is None or self.cycle.response_complete:
            self._close()
            return
        self.cycle.keep_alive = False
        if self._phase is Phase.BODY:
            self._wait(_CLOSING_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Tell who does not speak HTTP, or abuses it, in the body that all errors have."""
        error = self.conn.refusal or ProtocolError(400, "this is not HTTP/1.1: send a POST with a JSON body")
        body = encode_body(error.body())
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is under way
            for event in (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self._close()

    def leave(self) -> None:
        """End at once; the place is free from now on."""
        self.transport.abort()
        self.connections.discard(self)

    def _should_upgrade(self) -> bool:
        # There is no other protocol here. Java's client asks for HTTP/2 with every request, and takes no for an answer.
        return False

    def _look(self) -> None:
        """See what the connection waits for, after something has happened."""
        if self.transport.is_closing():
            self._close()
            return
        if self.conn.gave_way and self._going_on is None:
            self._going_on = self.loop.call_soon(self._go_on)
        state = self.conn.their_state
        if state is h11.MIGHT_SWITCH_PROTOCOL:  # type: ignore[attr-defined]  # not in its __all__
            self.flow.resume_reading()  # else it would not be seen that the client goes away
        if state is h11.IDLE:
            phase = Phase.HEAD if self.cycle is None or self.conn.trailing_data[0] else Phase.IDLE
        else:
            phase = Phase.BODY if state is h11.SEND_BODY else Phase.ANSWER
        moved_on = phase is Phase.BODY and self._progress >= _PROGRESS_BYTES
        if phase is not self._phase or moved_on:
            self._waiting.put(self, phase)
            self._progress = 0
        if phase is not self._phase:
            self._phase = phase
            self._wait(self._seconds.get(phase))

    def _go_on(self) -> None:
        """Parse on, after others have had their turn."""
        self._going_on = None
        self.handle_events()
        if not self.conn.gave_way and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()
        self._look()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        """Close, whether or not the other side reads to the end."""
        self.transport.close()
        self._waiting.drop(self)
        self._end_in(self._answer_seconds if self._phase is Phase.ANSWER else _CLOSING_SECONDS)

    def _end_in(self, seconds: float) -> None:
        if self._end is None:
            self._end = self.loop.call_later(seconds, self.transport.abort)


class Door:
    """Lets connections in, as many as there are places; in uvicorn's server it stands where asyncio's would.

    When all places are taken, the connection that has waited longest for its client goes; when all of them wait for us, whoever
    comes next waits outside.

    Args:
        listener: a bound socket.
        make: makes a connection's protocol.
        waiting: who may be shown out.
        taken: how many connections there are.
        places: how many there may be.
        tls: for HTTPS.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], Connection],
        *,
        waiting: Waiting,
        taken: Callable[[], int],
        places: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._listener = listener
        self._make = make
        self._waiting = waiting
        self._taken = taken
        self._places = places
        self._tls = tls
        self._entering: dict[asyncio.Task[None], None] = {}
        self._complained: dict[str, float] = {}
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start to let in."""
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Let in nobody any more."""
        for task in (self._accepting, *self._entering):
            if task is not None:
                task.cancel()

    @property
    def handshakes(self) -> int:
        """How many connections are in the middle of a TLS handshake."""
        return len(self._entering)

    async def wait_closed(self) -> None:
        """Return when nobody is in the door."""
        accepting = [] if self._accepting is None else [self._accepting]
        await asyncio.gather(*accepting, *self._entering, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # By itself, `sock_accept` does not give way while somebody stands outside.
            await asyncio.sleep(0)
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _SHORT_OF_FILES:
                    self._complain("out of files", error=os.strerror(error.errno), connections=self._taken())
                    self._make_room()
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            try:
                while self._taken() + self.handshakes >= self._places:
                    self._complain("crowded", connections=self._places)
                    await asyncio.sleep(0 if self._make_room() else _PAUSE_SECONDS)
            except asyncio.CancelledError:
                connection.close()
                raise
            if self._tls is None:
                await self._enter(connection)
                continue
            # A handshake takes what the client takes: others come in meanwhile.
            task = loop.create_task(self._enter(connection))
            self._entering[task] = None
            task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[None]) -> None:
        self._entering.pop(task, None)

    def _make_room(self) -> bool:
        """Show somebody out; who stands in the middle of a TLS handshake, too, where these are most of all."""
        handshakes = self.handshakes
        if 2 * handshakes < self._places and self._waiting.show_out():
            return True
        if handshakes:
            task = next(iter(self._entering))
            self._entered(task)
            task.cancel()
        return handshakes > 0

    async def _enter(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HEAD_SECONDS if self._tls else None,
                ssl_shutdown_timeout=_CLOSING_SECONDS if self._tls else None,
            )
        except OSError:  # it has gone, or does not speak TLS
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _complain(self, event: str, **fields: object) -> None:
        """Log a state that may last, once a minute."""
        now = time.monotonic()
        if now - self._complained.get(event, -_COMPLAINT_SECONDS) >= _COMPLAINT_SECONDS:
            self._complained[event] = now
            log(event, logging.WARNING, **fields)


def allow_files(connections: int) -> int:
    """Raise the limit of open files to what so many connections need, as far as the system lets, and return how many fit."""
    needed = len(os.listdir("/dev/fd")) + _SPARE_FILES  # noqa: PTH208 - a virtual folder
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + connections
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return max(1, min(connections, soft - needed))
