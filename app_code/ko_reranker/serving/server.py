"""Runs the app under uvicorn until SIGTERM or Ctrl-C, then drains."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from .options import ServingOptions

# Load balancers and the SageMaker front keep connections for a minute: the side that closes first loses requests.
_KEEP_ALIVE_SECONDS = 75


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


def run(app: Starlette, listener: socket.socket, options: ServingOptions) -> bool:
    """Serve until told to stop; requests in flight are answered first.

    Returns:
        Whether the app started: a model that fails to warm up never does.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=options.drain_seconds,
    )
    server = uvicorn.Server(config)
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
