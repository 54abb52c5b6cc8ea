"""The local cloud's server process: ``python -m local_cloud.server --settings FILE``.

:class:`local_cloud.cloud.LocalCloud` writes the settings file and starts this. One process holds the folder's lock for
as long as it lives; it serves the AWS APIs over TLS and the rerank API over HTTP, both on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.constants
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_cloud.settings import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, LocalSettings
from local_cloud.tls import ensure_certificate

# The old server of this folder may still be draining jobs and endpoints: SageMaker's 120 s between SIGTERM and SIGKILL.
LOCK_PATIENCE_SECONDS = 150.0

logger = logging.getLogger("local_cloud")


class StartError(RuntimeError):
    """The server cannot start; the message says what to do."""


def main() -> None:
    """Run the server until a signal, or until the parent is gone."""
    parser = argparse.ArgumentParser(description="The local cloud's server process.")
    parser.add_argument("--settings", required=True, type=Path, help="settings file written by LocalCloud")
    parser.add_argument("--follow-parent", action="store_true", help="stop when standard input closes")
    arguments = parser.parse_args()
    settings = LocalSettings.from_json(arguments.settings.read_text(encoding="utf-8"))
    try:
        with hold_lock(settings):
            for name, port in (("port", settings.port), ("gateway-port", settings.gateway_port)):
                refuse_taken_port(name, port)
            run(settings, follow_parent=arguments.follow_parent)
    except StartError as error:
        sys.exit(f"error: {error}")


@contextlib.contextmanager
def hold_lock(settings: LocalSettings, patience: float = LOCK_PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the folder's lock, waiting for an older server that is shutting down."""
    settings.home.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with settings.lock_file.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartError(
                        f"another local cloud already uses {settings.home}; stop it with `ko-reranker local down`"
                    ) from None
                time.sleep(0.1)
        announce(settings)
        try:
            yield
        finally:
            settings.server_file.unlink(missing_ok=True)


def announce(settings: LocalSettings, *, stopping: bool = False) -> None:
    """Write who holds the folder, for :class:`local_cloud.cloud.LocalCloud`."""
    ports = {"pid": os.getpid(), "port": settings.port, "gateway_port": settings.gateway_port, "stopping": stopping}
    temporary = settings.server_file.with_suffix(".new")
    temporary.write_text(json.dumps(ports), encoding="utf-8")
    temporary.replace(settings.server_file)


def refuse_taken_port(name: str, port: int, patience: float = 5.0) -> None:
    """Raise a :class:`StartError` when something else listens on ``port``; a socket just closed gets a moment."""
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as probe, socket.socket() as caller:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                # macOS lets one bind an address of a port that another program has on all of them.
                if caller.connect_ex(("127.0.0.1", port)) != 0:
                    return
                raise OSError
            except PermissionError:
                raise StartError(f"port {port} may not be opened by this user: choose another with --{name}") from None
            except OSError:
                if time.monotonic() > deadline:
                    raise StartError(
                        f"port {port} on 127.0.0.1 is taken by another program: choose another with --{name} "
                        f"(to see who has it: lsof -i :{port})"
                    ) from None
        time.sleep(0.2)


def prepare_environment(settings: LocalSettings) -> None:
    """Set the variables that MiniStack reads while it is imported, and forget the user's own AWS configuration."""
    home = settings.home
    scratch = home / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    for directory in (scratch, home / "state", home / "s3"):
        directory.mkdir(parents=True, exist_ok=True)
    certificate = ensure_certificate(home / "tls")
    for name in [n for n in os.environ if n.startswith(("AWS_", "LAMBDA_", "MINISTACK_", "LOCALSTACK_", "SFN_"))]:
        del os.environ[name]
    os.environ.update(
        AUTH="true",
        USE_SSL="1",
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(settings.port),
        MINISTACK_HOST="localhost",
        MINISTACK_ACCOUNT_ID=settings.account_id,
        MINISTACK_REGION=settings.region,
        MINISTACK_SSL_CERT=str(certificate.chain),
        MINISTACK_SSL_KEY=str(certificate.key),
        PERSIST_STATE="1",
        STATE_DIR=str(home / "state"),
        S3_PERSIST="1",
        S3_DATA_DIR=str(home / "s3"),
        LAMBDA_EXECUTOR="local",
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        # MiniStack removes containers of its own label at start and stop; keep it away from the user's Docker altogether.
        DOCKER_HOST=f"unix://{home}/no-docker.sock",
        TMPDIR=str(scratch),
        SFN_WAIT_SCALE=str(settings.wait_scale),
        LOG_LEVEL=settings.log_level,
        AWS_ENDPOINT_URL=settings.endpoint_url,
        AWS_ACCESS_KEY_ID=ROOT_ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY=ROOT_SECRET_KEY,
        AWS_REGION=settings.region,
        AWS_DEFAULT_REGION=settings.region,
        AWS_CA_BUNDLE=str(certificate.authority),
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )


def load_ministack(settings: LocalSettings) -> Any:
    """Import MiniStack (once the environment is prepared) and wire in everything it lacks."""
    from ministack import app

    from local_cloud import extensions, sagemaker

    try:
        extensions.install(app)
        sagemaker.install(app, settings)
    except extensions.MiniStackMismatch as error:
        raise StartError(f"{error} `make setup` does.") from error
    return app


def run(settings: LocalSettings, *, follow_parent: bool) -> None:
    """Serve until told to stop."""
    prepare_environment(settings)
    app = load_ministack(settings)
    raise_open_file_limit()
    for chatty in ("httpx", "persistence"):  # a line for every invocation, fifty for every snapshot
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Clients keep connections open and do not answer TLS's goodbye; asyncio would wait half a minute for each at the end.
    asyncio.constants.SSL_SHUTDOWN_TIMEOUT = 1.0
    asyncio.run(serve(app, settings, follow_parent=follow_parent))


def raise_open_file_limit() -> None:
    """Allow as many open files as the system lets this user have; macOS starts at 256."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10240 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(app: Any, settings: LocalSettings, *, follow_parent: bool) -> None:
    """Run both servers and the snapshots until a signal or the parent's end, then stop what runs and save state."""
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    from local_cloud import sagemaker
    from local_cloud.gateway import Gateway
    from local_cloud.snapshots import Activity, save_regularly

    asked, stop = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_without_tls_goodbyes)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    if follow_parent:
        threading.Thread(target=_wait_for_parent, args=(loop, asked), daemon=True).start()

    def config(port: int) -> Config:
        result = Config()
        result.bind = [f"127.0.0.1:{port}"]
        result.keep_alive_timeout = 75
        result.graceful_timeout = 2
        result.loglevel = settings.log_level
        return result

    secure = config(settings.port)
    secure.certfile, secure.keyfile = os.environ["MINISTACK_SSL_CERT"], os.environ["MINISTACK_SSL_KEY"]

    async def end() -> None:
        """Processes first, while the APIs they use still answer; then the servers, which save their state."""
        await asked.wait()
        announce(settings, stopping=True)
        await asyncio.to_thread(sagemaker.shutdown)
        stop.set()

    apis = Activity(app.app)
    saving = save_regularly(app, apis, settings.snapshot_seconds)
    tasks = [asyncio.create_task(task) for task in (end(), _resume(settings), saving)]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(hypercorn_serve(apis, secure, shutdown_trigger=stop.wait))
            gateway = Gateway(apis, settings)
            group.create_task(hypercorn_serve(gateway, config(settings.gateway_port), shutdown_trigger=stop.wait))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.to_thread(sagemaker.shutdown)


async def _resume(settings: LocalSettings) -> None:
    """Start the endpoints that were live, as soon as the S3 they read their model from answers."""
    from local_cloud import sagemaker

    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", settings.port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            sagemaker.resume()
            return


def _without_tls_goodbyes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong on the loop, but not every client that hung up without TLS's goodbye."""
    if not isinstance(context.get("exception"), TimeoutError):
        loop.default_exception_handler(context)


def _wait_for_parent(loop: asyncio.AbstractEventLoop, asked: asyncio.Event) -> None:
    """Block until the pipe on standard input closes, which happens however the parent ends."""
    while os.read(0, 1024):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(asked.set)


if __name__ == "__main__":
    main()
