"""The process runner that training and processing jobs share: hosts, their folders, their commands, their end."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.context import Context, Credentials, logger
from local_cloud.sagemaker.errors import JobError
from local_cloud.sagemaker.logs import LogStream
from local_cloud.sagemaker.processes import (
    STOP_GRACE_SECONDS,
    Container,
    base_environment,
    free_port,
    new_disk,
    stop_all,
)
from local_cloud.settings import Image

CONTAINER_ROOT = "/opt/ml"
# How long the other hosts may take to notice that one has failed before they are stopped.
_PEERS_SECONDS = 5.0
_FAILURE_REASON_CHARACTERS = 1024


@dataclass
class Host:
    """One instance of a job.

    Attributes:
        name: ``algo-1``, ``algo-2``, …
        base: the folder that stands for ``/opt/ml`` there.
        disk: the folder for everything else.
    """

    name: str
    base: Path
    container: Container | None = None
    disk: Path = field(default_factory=new_disk)

    def path(self, container_path: str) -> Path:
        """Where a path of the container lies on this machine."""
        if container_path != CONTAINER_ROOT and not container_path.startswith(CONTAINER_ROOT + "/"):
            raise JobError(f"ClientError: the local cloud maps paths below {CONTAINER_ROOT} only, not {container_path}.")
        return self.base / container_path[len(CONTAINER_ROOT) :].lstrip("/")

    def translate(self, text: str) -> str:
        """An argument or variable with the container's root, when it starts with it, replaced by this host's folder."""
        if text == CONTAINER_ROOT or text.startswith(CONTAINER_ROOT + "/"):
            return str(self.base) + text[len(CONTAINER_ROOT) :]
        return text

    def write_json(self, container_path: str, value: Any) -> None:
        path = self.path(container_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")

    def read_text(self, container_path: str) -> str:
        """The content of a small file, or nothing when there is none."""
        try:
            return self.path(container_path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""


@dataclass
class Outcome:
    """How the hosts' processes ended.

    Attributes:
        stopped: ``Stopped`` or ``MaxRuntimeExceeded`` when the job was ended from outside, else None.
        failed: the first host that failed and its exit status, else None.
        interrupted: the instances were taken away; the job goes on with others.
    """

    stopped: str | None = None
    failed: tuple[Host, int] | None = None
    interrupted: bool = False


@dataclass
class Control:
    """What others may ask of a job, from the moment it is accepted.

    Attributes:
        stop: end the job.
        shutdown: end it now, because the local cloud itself is stopping.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    shutdown: threading.Event = field(default_factory=threading.Event)

    def abort(self) -> None:
        """Stop now, because the local cloud itself is stopping."""
        self.shutdown.set()
        self.stop.set()


@dataclass
class Cluster:
    """The hosts of one running job.

    Args:
        context: the shared ground.
        kind: ``training`` or ``processing``: the folder the job is kept in.
        name: the job's name.
        role: the execution role every host acts with.
        log_group: CloudWatch log group of the job.
        control: how others end it.
        instance_type: of the hosts.
    """

    context: Context
    kind: str
    name: str
    role: str
    count: int
    log_group: str
    control: Control
    instance_type: str

    def __post_init__(self) -> None:
        self.directory = self.context.home / self.kind / self.name
        shutil.rmtree(self.directory, ignore_errors=True)
        names = [f"algo-{i + 1}" for i in range(self.count)]
        self.hosts = [Host(name, self.directory / name) for name in names]
        for host in self.hosts:
            host.base.mkdir(parents=True)
        self.credentials: Credentials = self.context.assume(self.role, "SageMaker")
        self.s3 = self.context.client("s3", self.credentials)
        self._logs: list[LogStream] = []

    @property
    def host_names(self) -> list[str]:
        return [host.name for host in self.hosts]

    def start(
        self,
        argv: Sequence[str],
        image: Image,
        variables: Mapping[str, str],
        on_line: Callable[[Host, str], None] | None = None,
    ) -> None:
        """Start the command on every host; the first one is the rendezvous of `torchrun`."""
        common = {
            **self.context.cloud_environment(self.credentials),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "SM_HOSTS": json.dumps(self.host_names),
            # Hosts share this machine's cores; each would take them all, or what the cloud was told by its own variable.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // self.count)),
        }
        logs_client = self.context.client("logs", self.credentials)
        for host in self.hosts:
            stream = LogStream(logs_client, self.log_group, f"{self.name}/{host.name}-{int(time.time())}")
            self._logs.append(stream)

            def line(text: str, host: Host = host, stream: LogStream = stream) -> None:
                stream.add(text)
                if on_line:
                    on_line(host, text)

            environment = {
                **base_environment(image, host.base, host.disk, self.instance_type),
                **common,
                "CURRENT_HOST": host.name,
                "SM_CURRENT_HOST": host.name,
                **{name: host.translate(value) for name, value in variables.items()},
            }
            command = [host.translate(argument) for argument in argv]
            log_file = self.directory / f"{host.name}.log"
            host.container = Container(command, environment, host.base, log_file, line)

    def wait(
        self,
        max_seconds: float,
        meanwhile: Callable[[], None] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Wait for all hosts; end them when one fails, when the job is stopped or interrupted, or when its time is over."""
        deadline = time.monotonic() + max_seconds
        outcome = Outcome()
        one_failed_at: float | None = None
        while True:
            statuses = [host.container.returncode for host in self.hosts if host.container]
            if None not in statuses:
                break
            if any(status for status in statuses):
                one_failed_at = one_failed_at or time.monotonic()
                if time.monotonic() - one_failed_at > _PEERS_SECONDS:
                    break
            if self.control.stop.is_set() or time.monotonic() > deadline:
                outcome.stopped = "Stopped" if self.control.stop.is_set() else "MaxRuntimeExceeded"
                break
            if interrupted():
                outcome.interrupted = True
                break
            if meanwhile:
                meanwhile()
            time.sleep(0.1)
        running = [host.container for host in self.hosts if host.container and host.container.returncode is None]
        ended_by_itself = {h.name for h in self.hosts if h.container and h.container.returncode is not None}
        if outcome.interrupted:  # a machine that is gone asks nobody
            for container in running:
                container.kill()
        stop_all(running, grace=5.0 if self.control.shutdown.is_set() else STOP_GRACE_SECONDS)
        for host in self.hosts:
            status = host.container.wait() if host.container else 0
            if status and host.name in ended_by_itself and outcome.failed is None:
                outcome.failed = (host, status)
        return outcome

    def close(self) -> None:
        """Write the last log lines, end the role's session, and free the disk; the logs stay."""
        for host in self.hosts:
            if host.container and host.container.returncode is None:
                host.container.kill()
        for stream in self._logs:
            stream.close()
        self.context.forget(self.credentials)
        for host in self.hosts:
            for folder in (host.base, host.disk):
                shutil.rmtree(folder, ignore_errors=True)


def failure_reason(kind: str, sentence: str, status: int | None = None) -> str:
    """A FailureReason as SageMaker words it."""
    reason = f"{kind}: {sentence}" + (f", exit code: {status}" if status is not None else "")
    return reason[:_FAILURE_REASON_CHARACTERS]


def reason_of(error: Exception) -> str:
    """The FailureReason for something that went wrong around the container."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, JobError):
        return str(error)[:_FAILURE_REASON_CHARACTERS]
    if isinstance(error, (ClientError, BotoCoreError)) or type(error).__name__ == "S3UploadFailedError":
        return failure_reason("ClientError", f"Data transfer failed: {error}")
    logger.exception("a job failed inside the local cloud")
    return failure_reason("InternalServerError", f"the local cloud itself failed ({error}); see its log")
