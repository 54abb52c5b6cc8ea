"""One local cloud for all end-to-end tests: deployed, retrained and answering as `make run` leaves it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ko_reranker.local.cloud import LocalCloud
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

PROJECT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "ko-reranker"


@dataclass
class Deployed:
    """A stage in a running local cloud, and what `make run` printed on the way there."""

    cloud: LocalCloud
    stage: Stage
    printed: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    root = tmp_path_factory.mktemp("cloud")
    port, gateway_port = free_port(), free_port()
    done = subprocess.run(
        [COMMAND, "local", "run", "--once", "--root", root, "--port", str(port), "--gateway-port", str(gateway_port)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_log_end(root)}"
    # The same folder again, as a second `make run` finds it.
    with LocalCloud(root, port, gateway_port) as cloud:
        yield Deployed(cloud, Stage.connect("local", Project.find(PROJECT), cloud=cloud), done.stdout)


def _log_end(root: Path) -> str:
    return "\n".join((root / ".local" / "server.log").read_text(errors="replace").splitlines()[-40:])
