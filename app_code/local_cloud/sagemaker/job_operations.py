"""What the operations of training and of processing jobs have in common; each kind adds what its jobs do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from local_cloud.sagemaker.context import Context, in_thread, now
from local_cloud.sagemaker.errors import ApiError, invalid
from local_cloud.sagemaker.jobs import Control
from local_cloud.sagemaker.store import Record, shown

CLOUD_STOPPED = "InternalServerError: the local cloud was stopped meanwhile"
_ENDED = ("Completed", "Failed", "Stopped")


class JobOperations(ABC):
    """Create, describe, stop and list jobs of one kind, which run in a thread each.

    Attributes:
        kind: begins the names of its fields, as ``Training`` begins ``TrainingJobName``.
        listed: the fields of a summary beside name, ARN, times and status.
        announced: the fields of the event about a job's end beside name, ARN and status.
        not_found: SageMaker's sentence about a job that isn't there, with ``{name}``.
        name_taken: SageMaker's sentence about a second job of a name, with ``{arn}`` of the first.
    """

    kind: ClassVar[str]
    listed: ClassVar[tuple[str, ...]]
    announced: ClassVar[tuple[str, ...]] = ()
    not_found: ClassVar[str]
    name_taken: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self._context = context
        self._jobs = context.store.all(f"{self.kind.lower()}_jobs")
        self._running: dict[str, Control] = {}
        self._name, self._arn, self._status = (f"{self.kind}Job{part}" for part in ("Name", "Arn", "Status"))

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request[self._name]
        arn = self._context.arn(f"{self.kind.lower()}-job", name)
        self._check(request)
        job = {**request, self._arn: arn, self._status: "InProgress", "CreationTime": now()}
        with self._context.store.change():
            if name in self._jobs:
                raise ApiError("ResourceInUse", self.name_taken.format(arn=arn))
            self._jobs[name], self._running[name] = job, Control()
            self._enter(job, "Starting", "Launching requested ML instances")
        in_thread(f"{self.kind.lower()} {name}", self._run, job, self._running[name])
        return {self._arn: arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self._get(request[self._name]))

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request[self._name]
        job = self._get(name)
        if job[self._status] in _ENDED:
            raise invalid(f"The request was rejected because the {self.kind.lower()} job is in status {job[self._status]}.")
        with self._context.store.change():
            job[self._status] = "Stopping"
            self._enter(job, "Stopping", f"Stopping the {self.kind.lower()} job")
        if name in self._running:
            self._running[name].stop.set()
        return {}

    def summaries(self) -> list[Record]:
        names = (self._name, self._arn, "CreationTime", f"{self.kind}EndTime", "LastModifiedTime", self._status, *self.listed)
        return [{n: job[n] for n in names if n in job} for job in self._jobs.values()]

    def mark_interrupted(self) -> None:
        """Fail what was running when the server ended."""
        with self._context.store.change():
            for job in self._jobs.values():
                if job[self._status] not in _ENDED:
                    self._fail(job, CLOUD_STOPPED)

    def shutdown(self) -> None:
        for control in list(self._running.values()):
            control.abort()

    @property
    def running(self) -> int:
        return len(self._running)

    def _get(self, name: str) -> Record:
        if name not in self._jobs:
            raise invalid(self.not_found.format(name=name))
        return self._jobs[name]

    def _leave(self, job: Record) -> None:
        """Let go of a job that has been noted as ended, and tell of it."""
        self._running.pop(job[self._name], None)
        detail = {n: job[n] for n in (self._name, self._arn, self._status, *self.announced)}
        self._context.emit(f"SageMaker {self.kind} Job State Change", job[self._arn], detail)

    def _enter(self, job: Record, status: str, message: str) -> None:
        """Note what a job goes on with, which some kinds tell in detail; call it inside a change."""
        job["LastModifiedTime"] = now()

    @abstractmethod
    def _check(self, request: dict[str, Any]) -> None:
        """Refuse what SageMaker would, and what the local cloud can't do."""

    @abstractmethod
    def _fail(self, job: Record, reason: str) -> None:
        """Note that a job failed; called inside a change."""

    @abstractmethod
    def _run(self, job: Record, control: Control) -> None:
        """Run a job to its end, note that, and leave it."""
