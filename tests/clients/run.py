"""Build the environment of the clients, deploy the local stack if none runs, and run the tests against it.

python tests/clients/run.py [pytest arguments]
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ko_reranker.local.cloud import LocalCloud
from ko_reranker.operations import deploying
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = ROOT / "build" / "clients"
# What the clients need, and all that these bring along.
REQUIREMENTS, CONSTRAINTS = HERE / "requirements.txt", HERE / "constraints.txt"


def environment() -> Path:
    """Return the Python of the clients' environment, made anew when its requirements change."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".ready"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in (REQUIREMENTS, CONSTRAINTS))).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--requirement", str(REQUIREMENTS), "--constraint", str(CONSTRAINTS)], check=True)
        stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def stage() -> Iterator[tuple[Stage, dict[str, str]]]:
    """Yield the local stage and what AWS's clients need to reach it: one that runs already, or one for this run only."""
    project = Project.find(ROOT)
    running = LocalCloud.running_in(ROOT)
    if running is not None:
        yield Stage.connect("local", project, cloud=running), running.environment()
        return
    with tempfile.TemporaryDirectory() as folder:
        cloud = LocalCloud(Path(folder), _free_port(), _free_port())
        cloud.start()
        try:
            yield deploying.deploy_local_stage(project, cloud), cloud.environment()
        finally:
            cloud.stop()


def main() -> int:
    python = environment()
    with stage() as (local, variables):
        told = {
            "RERANK_URL": local.api_url,
            "RERANK_KEY": local.api_key,
            "RERANK_ENDPOINT": local.output("EndpointName"),
            "PYTHONPATH": str(ROOT / "app_code"),
        }
        # The project's own pytest settings belong to the other environment.
        command = [str(python), "-m", "pytest", "-c", "/dev/null", "--rootdir", str(HERE), "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, str(HERE), *sys.argv[1:]], env=os.environ | variables | told, check=False, cwd=HERE)
    return done.returncode


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
