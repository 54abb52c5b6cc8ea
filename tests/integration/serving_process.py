"""``ko-reranker serve`` as a process of its own, under SageMaker's contract: the model in a folder, the rest by environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-c", "import typer; from ko_reranker.commands.serve import serve; typer.run(serve)"]
START_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: its root.
        process: to send signals to.
        log: where its stdout and stderr go.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(base: Path, port: int, **variables: str) -> dict[str, str]:
    """Return the environment of a serving container whose /opt/ml is ``base``; it computes in fp32 on whichever processor."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KO_RERANKER_", "SAGEMAKER_"))}
    container = {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port)}
    return own | container | {"KO_RERANKER_HOST": "127.0.0.1", "KO_RERANKER_DTYPE": "fp32", "OMP_NUM_THREADS": "1"} | variables


@contextmanager
def serving(base: Path, log: Path, **variables: str) -> Iterator[Server]:
    """Run the server until the block ends."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(COMMAND, env=environment(base, port, **variables), stdout=output, stderr=subprocess.STDOUT)
    try:
        server = Server(f"http://127.0.0.1:{port}", process, log)
        _wait_until_warm(server)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_warm(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{server.url}/ping", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {server.log.read_text()}")
