"""A container runtime as its command line, and SageMaker's folders as volumes: what works with one far away, too.

Nothing is mounted from this machine, whose folders a runtime behind DOCKER_HOST does not have: files go in and out as archives.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("docker", "podman")
SECONDS = 900


class NoRuntime(Exception):
    """No container runtime answers; the message says what was tried."""


@dataclass(frozen=True)
class Runtime:
    """A docker or podman that answers.

    Attributes:
        program: its command.
        image: the image that is tested.
        network: what containers and the build are in: ``host``, or None for a network made for the test.
    """

    program: str
    image: str
    network: str | None

    def run(self, *arguments: str, data: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [self.program, *arguments],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=SECONDS,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.program} {shlex.join(arguments)} ended with {done.returncode}:\n{done.stdout.decode()}"
            )
        return done

    def text(self, *arguments: str) -> str:
        return self.run(*arguments).stdout.decode().strip()

    @contextmanager
    def container(self, arguments: Sequence[str], **options: object) -> Iterator[Container]:
        """Make a container as SageMaker would, and remove it, with its log shown when something fails."""
        one = Container(self, self.text(*self._create(**options), self.image, *arguments).splitlines()[-1])
        try:
            yield one
        except BaseException:
            print(one.log())
            raise
        finally:
            self.run("rm", "--force", one.id, check=False)

    def _create(
        self,
        *,
        volumes: Mapping[str, str] = {},
        hosts: Sequence[str] = (),
        network: str | None = None,
        name: str | None = None,
        variables: Mapping[str, str] = {},
        entrypoint: str | None = None,
    ) -> list[str]:
        # The image's own folders can't be written to: what a job writes belongs below /opt/ml and /tmp.
        create = ["create", "--read-only", "--tmpfs", "/tmp:exec", "--init=false"]
        create += [part for volume, place in volumes.items() for part in ("--volume", f"{volume}:{place}")]
        create += [part for key, value in variables.items() for part in ("--env", f"{key}={value}")]
        create += ["--network", self.network or network or "none"]
        if self.network:  # one machine: all hosts are this one
            create += [part for host in hosts for part in ("--add-host", f"{host}:127.0.0.1")]
        elif name:
            create += ["--network-alias", name, "--hostname", name]
        return create + (["--entrypoint", entrypoint] if entrypoint else [])

    def put(self, volume: str, files: Mapping[str, str | bytes]) -> None:
        """Write files into a volume."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as out:
            for name, content in files.items():
                body = content.encode() if isinstance(content, str) else content
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(body), 0o644
                out.addfile(entry, io.BytesIO(body))
        with self._holder(volume) as holder:
            self.run("cp", "-", f"{holder}:/volume", data=archive.getvalue())

    def get(self, volume: str) -> dict[str, bytes]:
        """Return the files of a volume by their names below it."""
        with self._holder(volume) as holder:
            archive = subprocess.run(
                [self.program, "cp", f"{holder}:/volume/.", "-"], stdout=subprocess.PIPE, check=True
            ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            return {
                entry.name.removeprefix("./"): opened.extractfile(entry).read()  # type: ignore[union-attr]
                for entry in opened
                if entry.isfile()
            }

    @contextmanager
    def _holder(self, volume: str) -> Iterator[str]:
        holder = self.text("create", "--network", "none", "--volume", f"{volume}:/volume", self.image).splitlines()[-1]
        try:
            yield holder
        finally:
            self.run("rm", "--force", holder)


@dataclass(frozen=True)
class Container:
    """A container that was made."""

    runtime: Runtime
    id: str

    def start(self) -> None:
        self.runtime.run("start", self.id)

    def wait(self) -> int:
        return int(self.runtime.text("wait", self.id))

    def log(self) -> str:
        return self.runtime.run("logs", self.id, check=False).stdout.decode(errors="replace")

    def running(self) -> bool:
        return self.runtime.text("inspect", "--format", "{{.State.Running}}", self.id) == "true"

    def signal(self, name: str) -> None:
        self.runtime.run("kill", "--signal", name, self.id)

    def python(self, code: str) -> str:
        """Run some Python in the container, as a neighbour of its process."""
        return self.runtime.text("exec", self.id, "python", "-c", code)


def find(environment: Mapping[str, str] = os.environ) -> Runtime:
    """Return the runtime that answers: CONTAINER_RUNTIME's, or docker, or podman; DOCKER_HOST is the command line's own.

    Raises:
        NoRuntime: saying which were asked and what they answered.
    """
    asked = []
    for name in [environment["CONTAINER_RUNTIME"]] if environment.get("CONTAINER_RUNTIME") else NAMES:
        if shutil.which(name, path=environment.get("PATH")) is None:
            asked.append(f"{name} is not installed")
            continue
        done = subprocess.run(
            [name, "info", "--format", "{{json .}}"],
            capture_output=True,
            env=dict(environment),
            check=False,
        )
        if done.returncode == 0 and not _errors(done.stdout):
            return Runtime(name, environment.get("IMAGE") or "ko-reranker:test", environment.get("NETWORK") or None)
        said = (done.stderr.decode(errors="replace").strip() or _errors(done.stdout) or "no answer").splitlines()[-1]
        asked.append(f"{name} does not answer: {said}")
    host = environment.get("DOCKER_HOST")
    raise NoRuntime("; ".join(asked) + (f" (DOCKER_HOST is {host})" if host else ""))


def _errors(answer: bytes) -> str:
    """What `docker info` says of a server that can't be reached, with exit status 0 in some releases."""
    try:
        return "; ".join(json.loads(answer).get("ServerErrors") or ())
    except ValueError:
        return ""


def build(runtime: Runtime, arguments: Sequence[str]) -> None:
    """Build the Dockerfile, with PyTorch's CPU build; further arguments are the runtime's."""
    network = ["--network", runtime.network] if runtime.network else []
    command = [runtime.program, "build", *network, "--build-arg", "TORCH=cpu", "--tag", runtime.image, *arguments, str(ROOT)]
    print("$", shlex.join(command), flush=True)
    subprocess.run(command, check=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})
