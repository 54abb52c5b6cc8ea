"""Containers without containers: the image's command as a supervised process, its output streamed as it comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ko_reranker.instances import gpu_of
from local_cloud.settings import Image

# SageMaker: SIGTERM, 120 seconds to save checkpoints, SIGKILL.
STOP_GRACE_SECONDS = 120.0
_SUPERVISOR = Path(__file__).with_name("supervise.py")
_LONGEST_LINE = 64 * 1024
# What a container sees of the machine beneath: how to reach the network, and its GPUs. Where the user says that the Hugging
# Face hub's files are, they are: that folder stands for the hub.
_PASSED_ON = (
    *("USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"),
)


class Container:
    """One running command of an image.

    Args:
        argv: the command.
        environment: its whole environment.
        directory: its working directory.
        log_file: where its output is kept.
        on_line: called with every line of output, from a thread of its own.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log_file: Path,
        on_line: Callable[[str], None],
        grace: float = STOP_GRACE_SECONDS,
    ) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            # -I -S: no site-packages, so the supervisor costs 10 ms and 8 MB.
            [sys.executable, "-I", "-S", str(_SUPERVISOR), str(grace), "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(log_file, on_line), daemon=True)
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end; after the grace period it is killed."""
        self._order(b"T")

    def kill(self) -> None:
        """End it at once, with everything it started."""
        self._order(b"K")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and for the last line of its output; raises :class:`TimeoutError`."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        self._reader.join(timeout=10)
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return status

    def _order(self, letter: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended already
            assert self._process.stdin is not None  # noqa: S101 - Popen was given a pipe
            self._process.stdin.write(letter)
            self._process.stdin.flush()

    def _read(self, log_file: Path, on_line: Callable[[str], None]) -> None:
        output = self._process.stdout
        assert output is not None  # noqa: S101 - Popen was given a pipe
        with log_file.open("ab") as log:
            for line in iter(lambda: output.readline(_LONGEST_LINE), b""):
                log.write(line)
                log.flush()
                on_line(line.decode(errors="replace").rstrip("\r\n"))


def stop_all(containers: Sequence[Container], grace: float = STOP_GRACE_SECONDS) -> None:
    """Ask all to end at once, then wait; after ``grace`` seconds kill what is left."""
    for container in containers:
        container.terminate()
    deadline = time.monotonic() + grace
    for container in containers:
        try:
            container.wait(max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            container.kill()
            container.wait()


def new_disk() -> Path:
    """Make the disk of one host, for all that lies outside /opt/ml: hosts share no home, no cache and no temporary folder."""
    return Path(tempfile.mkdtemp(prefix="host-"))


def base_environment(image: Image, base_dir: Path, disk: Path, instance_type: str | None = None) -> dict[str, str]:
    """What every container of the image starts with: the image's own variables and little of the machine's.

    Args:
        image: the image.
        base_dir: stands for /opt/ml.
        disk: of the container's host, from `new_disk`.
        instance_type: of the host; one without a GPU does not see this machine's.
    """
    binaries = str(Path(image.command[0]).parent) if Path(image.command[0]).is_absolute() else ""
    path = os.pathsep.join(x for x in (binaries, os.environ.get("PATH", os.defpath)) if x)
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if instance_type and gpu_of(instance_type) is None:
        passed["CUDA_VISIBLE_DEVICES"] = ""
    for folder in ("home", "tmp"):
        (disk / folder).mkdir(exist_ok=True)
    return {
        "LANG": "C.UTF-8",
        **passed,
        "HOME": str(disk / "home"),
        "TMPDIR": str(disk / "tmp"),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "SAGEMAKER_BASE_DIR": str(base_dir),
        **image.environment,
    }


def resolve_entrypoint(entrypoint: Sequence[str], image: Image) -> list[str]:
    """The command of a job that names its own entrypoint: the image's program when it is called by its bare name."""
    program = Path(image.command[0])
    if entrypoint[0] in (program.name, f"/usr/local/bin/{program.name}"):
        return [*image.command, *entrypoint[1:]]
    found = shutil.which(entrypoint[0], path=os.pathsep.join([str(program.parent), os.environ.get("PATH", os.defpath)]))
    return [found or entrypoint[0], *entrypoint[1:]]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def loopback_interface() -> str:
    """The name of the loopback interface."""
    return "lo0" if sys.platform == "darwin" else "lo"
