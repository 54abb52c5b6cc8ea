"""Executions of the state machines: start one, follow it state by state, say how it ended."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

# State name -> how to say what it found, from its output.
_FINDINGS: dict[str, str] = {
    "Plan the translation": "{plan[message]}",
    "Join the translations": (
        "{dataset[train]} training and {dataset[dev]} dev records, {dataset[rejected]} in quarantine; "
        "{dataset[filled_negatives]} negatives filled in at random"
    ),
    "Train": "job {training[job]}",
    "Read the evaluation": "{gate[message]}",
    "Register as approved": "{package[arn]}",
    "Register for approval": "{package[arn]}",
    "Register as rejected": "{package[arn]}",
    "Smoke test": "{smoke_test[queries]} golden queries, scores at most {smoke_test[max_difference]} off",
}
_TRAINING_LOG = "/aws/sagemaker/TrainingJobs"
# States that only steer say nothing a reader wants.
_SILENT = re.compile(
    r"(\?|^Wait.*|^Count.*|^Start waiting|^Read the release record|^Describe the (endpoint to delete|deletion)"
    r"|^Use the .*|^Shard translated)$"
)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened in an execution.

    Attributes:
        kind: ``started``, ``finished`` or ``progress``.
        state: the state's name.
        seconds: how long it took, for a finished one.
        finding: what it found, or how far it is.
    """

    kind: str
    state: str
    seconds: float = 0.0
    finding: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended.

    Attributes:
        status: SUCCEEDED, FAILED, TIMED_OUT or ABORTED.
        cause: for all but the first, the sentence that says why.
        output: for the first, the execution's output.
    """

    status: str
    cause: str
    output: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


def start(stage: Stage, machine_output: str, execution_input: dict[str, Any], name: str | None = None) -> str:
    """Start an execution and return its ARN.

    Args:
        machine_output: the stack output that holds the state machine's ARN, such as ``RetrainStateMachine``.
        name: the execution's name; None makes one up from the time.
    """
    name = name or f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    try:
        arn: str = stage.client("stepfunctions").start_execution(
            stateMachineArn=stage.output(machine_output), name=name, input=json.dumps(execution_input, ensure_ascii=False)
        )["executionArn"]
    except ClientError as error:
        raise OperationError(f"the execution could not be started: {error.response['Error'].get('Message', error)}") from None
    return arn


def follow(stage: Stage, arn: str, *, poll_seconds: float) -> Iterator[Step]:
    """Yield what happens in an execution until it ends."""
    history, job = _History(stage, arn), _TrainingLog(stage, arn)
    while True:
        # Asked before the events are read: what happens in between is read, and the end is not missed.
        running = _describe(stage, arn)["status"] == "RUNNING"
        yield from history.new()
        if "Train" in history.open:
            yield from job.new()
        elif "Translate the shards" in history.open:
            yield from _map_progress(stage, arn)
        if not running:
            return
        time.sleep(poll_seconds)


def outcome(stage: Stage, arn: str) -> Outcome:
    """Return how an execution ended."""
    found = _describe(stage, arn)
    output = found.get("output")
    return Outcome(found["status"], found.get("cause") or found.get("error") or "", json.loads(output) if output else {})


def latest(stage: Stage, machine_output: str, count: int) -> list[dict[str, Any]]:
    """Return the newest executions as ListExecutions describes them."""
    answer = stage.client("stepfunctions").list_executions(stateMachineArn=stage.output(machine_output), maxResults=count)
    found: list[dict[str, Any]] = answer["executions"]
    return found


def _describe(stage: Stage, arn: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.client("stepfunctions").describe_execution(executionArn=arn)
    return found


class _History:
    """An execution's events, each told once."""

    def __init__(self, stage: Stage, arn: str) -> None:
        self._client, self._arn, self._last = stage.client("stepfunctions"), arn, 0
        self.open: dict[str, float] = {}

    def new(self) -> Iterator[Step]:
        pages = self._client.get_paginator("get_execution_history").paginate(
            executionArn=self._arn, includeExecutionData=True, PaginationConfig={"PageSize": 1000}
        )
        for page in pages:
            for event in page["events"]:
                if event["id"] > self._last:
                    self._last = event["id"]
                    yield from self._tell(event)

    def _tell(self, event: dict[str, Any]) -> Iterator[Step]:
        at = event["timestamp"].timestamp()
        if "stateEnteredEventDetails" in event:
            name = event["stateEnteredEventDetails"]["name"]
            self.open[name] = at
            if not _SILENT.search(name):
                yield Step("started", name)
        elif "stateExitedEventDetails" in event:
            name = event["stateExitedEventDetails"]["name"]
            began = self.open.pop(name, at)
            if not _SILENT.search(name):
                yield Step("finished", name, at - began, _finding(name, event["stateExitedEventDetails"].get("output")))


def _finding(state: str, output: str | None) -> str:
    if state not in _FINDINGS or not output:
        return ""
    try:
        return _FINDINGS[state].format(**json.loads(output))
    except (KeyError, TypeError, ValueError):
        return ""  # the state was left by a Catch: its output is the error, which the execution's end tells


class _TrainingLog:
    """The progress lines of an execution's training job: the newest one of the first host."""

    def __init__(self, stage: Stage, arn: str) -> None:
        self._client = stage.client("logs")
        # The job's name begins with the stage and the run; a run is named after its execution.
        self._prefix = f"{stage.prefix}-{arn.rsplit(':', 1)[-1][:20]}"
        self._stream: str | None = None
        self._token: dict[str, str] = {}

    def new(self) -> Iterator[Step]:
        newest = self._find()
        if newest is None:
            return
        if newest != self._stream:  # another attempt, or other spot instances, begin a stream of their own
            self._stream, self._token = newest, {}
        answer = self._client.get_log_events(
            logGroupName=_TRAINING_LOG, logStreamName=self._stream, startFromHead=True, **self._token
        )
        self._token = {"nextToken": answer["nextForwardToken"]}
        lines = [event["message"].strip() for event in answer["events"] if "step=" in event["message"]]
        if lines:
            yield Step("progress", "Train", finding=lines[-1])

    def _find(self) -> str | None:
        try:
            found = self._client.describe_log_streams(logGroupName=_TRAINING_LOG, logStreamNamePrefix=self._prefix)
        except self._client.exceptions.ResourceNotFoundException:
            return None  # no job has written yet
        # <job>/algo-1-<time>; a later attempt's job sorts after an earlier one's.
        first_hosts = [item["logStreamName"] for item in found["logStreams"] if "/algo-1-" in item["logStreamName"]]
        return max(first_hosts, default=None)


def _map_progress(stage: Stage, arn: str) -> Iterator[Step]:
    client = stage.client("stepfunctions")
    for item in client.list_map_runs(executionArn=arn).get("mapRuns", ())[:1]:
        counts = client.describe_map_run(mapRunArn=item["mapRunArn"])["itemCounts"]
        done, running, failed = (counts[key] for key in ("succeeded", "running", "failed"))
        found = f"{done} of {counts['total']} shards translated, {running} running, {failed} failed"
        yield Step("progress", "Translate the shards", finding=found)
