"""Runs the app under uvicorn until SIGTERM or Ctrl-C, then drains."""

from __future__ import annotations

import errno
import functools
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE

from .connections import IDLE_SECONDS, Connection, Door, Patience, Waiting, allow_files
from .logs import log
from .options import ServingOptions


class CannotListen(OSError):
    """The address is not ours to listen on."""


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; nobody is accepted yet, so callers see a closed port until the model is up.

    Raises:
        CannotListen: saying what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, because asyncio sets TCP_NODELAY only on sockets that say so; without it every answer on a kept
    # connection waits 40 ms for an acknowledgement.
    reserved = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        advice = (
            "port with --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "address of this machine with --host"
        )
        raise CannotListen(f"cannot listen on {host}:{port} ({error.strerror or error}): choose another {advice}") from None
    return reserved


def leave_on_signals() -> None:
    """Make SIGTERM and Ctrl-C clean exits: at once while the model loads, after draining once the server runs."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


class Server(uvicorn.Server):
    """uvicorn's server with a door and connections of ours.

    Args:
        app: what answers.
        options: limits.
    """

    def __init__(self, app: Starlette, options: ServingOptions) -> None:
        self.options = options
        # Pinned: with other parsers, which uvicorn takes where they can be imported, a request that asks for HTTP/2 as Java's
        # client does loses its body.
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=options.drain_seconds,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then let in whoever comes."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        places = allow_files(self.options.max_connections)
        if places < self.options.max_connections:
            log("few files", logging.WARNING, connections=places, advice="raise the limit of open files (ulimit -n)")
        waiting = Waiting()
        connection = functools.partial(
            Connection,
            self.config,
            self.server_state,
            self.lifespan.state,
            patience=Patience.of(self.options.request_timeout_seconds),
            waiting=waiting,
        )
        assert sockets is not None  # noqa: S101 - `run` gives them
        (listener,) = sockets
        taken = self.server_state.connections.__len__
        door = Door(listener, connection, waiting=waiting, taken=taken, places=places, tls=self.options.tls)
        door.open()
        self.servers = [door]  # type: ignore[list-item]  # it has what uvicorn asks of a server
        self.started = True


def run(app: Starlette, listener: socket.socket, options: ServingOptions) -> bool:
    """Serve until told to stop; requests in flight are answered first.

    Returns:
        Whether the app started: a model that fails to warm up never does.
    """
    server = Server(app, options)
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if server.started:
            raise
    finally:
        listener.close()
    return server.started


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
