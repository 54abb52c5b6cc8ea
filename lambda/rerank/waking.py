"""An endpoint that was taken away: what callers are told, and how the first of them brings it back.

Whoever asks first starts a state machine whose one state brings the endpoint back. An item in the table of counts says when
that was, so that of all functions that are asked meanwhile none starts it again before its time has passed, and each can tell
its caller how much of it is left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from document_counts import CountsClient
from model_endpoint import EndpointAway
from reporting import Report
from sagemaker_runtime import AwsClient, ConnectionFailed, EndpointError, NotConnected, TooSlow

START_SECONDS = 2.0
# What is left of the time is a guess: nobody is told to come again at once.
_LEAST_SECONDS = 15
_ID = "wake"
_ASKED_BEFORE = "ConditionalCheckFailedException"
_FAILURES = (EndpointError, NotConnected, ConnectionFailed, TooSlow, ValueError)


@dataclass
class StatesClient(AwsClient):
    """Calls Step Functions.

    Attributes:
        answer_seconds: how long an answer may take.
    """

    answer_seconds: float = START_SECONDS

    service, host, variable = "states", "states", "AWS_ENDPOINT_URL_SFN"

    def start(self, machine: str, name: str) -> None:
        """Start an execution of a state machine (ARN).

        Raises:
            EndpointError, NotConnected, ConnectionFailed, TooSlow.
        """
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AWSStepFunctions.StartExecution"}
        body = json.dumps({"stateMachineArn": machine, "name": name, "input": "{}"}).encode()
        self.post("/", body, lambda _: headers, time.monotonic() + self.answer_seconds)


@dataclass(frozen=True, slots=True)
class Bell:
    """What it takes to bring the endpoint back at a request.

    Attributes:
        machine: the ARN of the state machine that does.
        table: the DynamoDB table that remembers when it was started.
        counts: asks the table.
        states: starts the state machine.
    """

    machine: str
    table: str
    counts: CountsClient
    states: StatesClient


@dataclass(frozen=True, slots=True)
class Waking:
    """Tells callers of an endpoint that is away when to come again.

    Attributes:
        seconds: what it takes to come back.
        bell: brings it back at a request; None leaves that to the hours of its schedule and to people.
        clock: tells the seconds since 1970.
    """

    seconds: int
    bell: Bell | None = None
    clock: Callable[[], float] = time.time

    def tell(self, error: EndpointAway, report: Report, *, wake: bool) -> None:
        """Put into an error when to come again, and have the endpoint brought back where nobody else has.

        Args:
            wake: whether the request is one that the endpoint is needed for.
        """
        left = self._ring(self.bell, report) if wake and self.bell else None
        if left is None:
            left = self.seconds
            error.message = f"the model is switched off or starting, and starting takes about {left} s: come again later"
        else:
            error.message = f"the model was switched off and is starting: come again in about {left} s"
        error.headers["Retry-After"] = str(left)

    def _ring(self, bell: Bell, report: Report) -> int | None:
        """Return the seconds until the endpoint is expected back; None where that could not be seen to."""
        now = int(self.clock())
        try:
            begun = self._begun(bell, now)
            if begun is None:
                begun = now
                try:
                    bell.states.start(bell.machine, f"request-{now}")
                except _FAILURES:
                    self._forget(bell)
                    raise
                report.woke()
        except _FAILURES as error:
            report.not_woken(error.code if isinstance(error, EndpointError) else str(error))
            return None
        return max(_LEAST_SECONDS, begun + self.seconds - now)

    def _begun(self, bell: Bell, now: int) -> int | None:
        """Return when the endpoint's return was begun; None where it is this function's to begin."""
        try:
            bell.counts.update_item(
                {
                    "TableName": bell.table,
                    "Key": {"id": {"S": _ID}},
                    "UpdateExpression": "SET started = :now, expires = :expires",
                    "ConditionExpression": "attribute_not_exists(started) OR started <= :before",
                    "ExpressionAttributeValues": {
                        ":now": {"N": str(now)},
                        ":expires": {"N": str(now + 2 * self.seconds)},
                        ":before": {"N": str(now - self.seconds)},
                    },
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            )
        except EndpointError as error:
            if error.code != _ASKED_BEFORE:
                raise
            item: dict[str, Any] = error.members.get("Item") or {}
            return int(item.get("started", {}).get("N", now))
        return None

    def _forget(self, bell: Bell) -> None:
        """Let the next request try again."""
        bell.counts.update_item(
            {
                "TableName": bell.table,
                "Key": {"id": {"S": _ID}},
                "UpdateExpression": "SET started = :never",
                "ExpressionAttributeValues": {":never": {"N": "0"}},
            }
        )
