"""One local cloud for all end-to-end tests: deployed, retrained and answering as `make run` leaves it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed_stage import COMMAND, PROJECT, Deployed, free_port

from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from local_cloud.cloud import LocalCloud


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
        timeout=2400,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_log_end(root)}"
    # The same folder again, as a second `make run` finds it.
    with LocalCloud(root, port, gateway_port) as cloud:
        yield Deployed(cloud, Stage.connect("local", Project.find(PROJECT), cloud=cloud), done.stdout)


def _log_end(root: Path) -> str:
    return "\n".join((root / ".local" / "server.log").read_text(errors="replace").splitlines()[-40:])
