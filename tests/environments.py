"""Environments of their own for tests whose packages don't go with the project's, and the local stage they test against."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from local_cloud import deploying
from local_cloud.cloud import LocalCloud

ROOT = Path(__file__).resolve().parents[1]


def environment(folder: Path) -> Path:
    """Return the Python of a folder's environment, made anew when its requirements change.

    Args:
        folder: holds requirements.txt, and constraints.txt with all that these bring along.
    """
    requirements, constraints = folder / "requirements.txt", folder / "constraints.txt"
    root = ROOT / "build" / folder.name
    python, stamp = root / "bin" / "python", root / ".ready"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in (requirements, constraints))).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(root)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--requirement", str(requirements), "--constraint", str(constraints)], check=True)
        stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def local_stage(
    deploy: Callable[[Project, LocalCloud], Stage] = deploying.deploy_local_stage,
) -> Iterator[tuple[Stage, LocalCloud]]:
    """Yield the local stage and its cloud: one that runs already, or one for this run only.

    Args:
        deploy: puts as much of the stage into a new cloud as is needed.
    """
    project = Project.find(ROOT)
    running = LocalCloud.running_in(ROOT)
    if running is not None:
        yield Stage.connect("local", project, cloud=running), running
        return
    with tempfile.TemporaryDirectory() as folder:
        cloud = LocalCloud(Path(folder), _free_port(), _free_port())
        cloud.start()
        try:
            yield deploy(project, cloud), cloud
        finally:
            cloud.stop()


def pytest(python: Path, folder: Path, variables: Mapping[str, str], *, skip: Sequence[Path] = ()) -> int:
    """Run a folder's tests, those in `skip` left out, with an environment's Python; the command line's arguments go on."""
    # The project's own pytest settings belong to the other environment.
    command = [str(python), "-m", "pytest", "-c", "/dev/null", "--rootdir", str(folder), "-q", "-p", "no:cacheprovider"]
    command.append(f"--confcutdir={ROOT / 'tests'}")  # a folder within shares the conftest of the one around it
    command += [f"--ignore={path}" for path in skip]
    told = {**os.environ, **variables, "PYTHONPATH": str(ROOT / "app_code")}
    return subprocess.run([*command, str(folder), *sys.argv[1:]], env=told, check=False, cwd=folder).returncode


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
