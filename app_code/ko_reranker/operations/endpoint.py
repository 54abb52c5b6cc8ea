"""The endpoint of a stage: whether it is there, taken away, brought back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from botocore.exceptions import ClientError

from ko_reranker.operations import executions
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage


@dataclass(frozen=True, slots=True)
class Standing:
    """How the endpoint stands.

    Attributes:
        name: the endpoint's; None where the stage has none (``serving.enabled`` is false).
        status: SageMaker's, such as ``InService``; None while it is away.
        since: when it was made or changed last.
        reason: why it failed, or why its last update did.
    """

    name: str | None
    status: str | None = None
    since: datetime | None = None
    reason: str = ""

    def __str__(self) -> str:
        """The line that tells it."""
        if self.name is None:
            return "none (serving.enabled is false)"
        if self.status is None:
            return f"{self.name}  away: `ko-reranker endpoint on` brings it back"
        since = f"since {self.since.astimezone():%Y-%m-%d %H:%M:%S}" if self.since else ""
        return "  ".join(part for part in (self.name, self.status, since, self.reason) if part)


def look(stage: Stage) -> Standing:
    """Return how the endpoint stands.

    Raises:
        OperationError: the stage isn't deployed, or SageMaker doesn't say.
    """
    name = stage.output("EndpointName")
    if name == "none":
        return Standing(None)
    try:
        found = stage.client("sagemaker").describe_endpoint(EndpointName=name)
    except ClientError as error:
        message = error.response["Error"].get("Message", str(error))
        if "Could not find endpoint" in message:  # SageMaker has no error of its own for it
            return Standing(name)
        raise OperationError(f"the endpoint {name} can't be looked at: {message}") from None
    return Standing(name, found["EndpointStatus"], found.get("LastModifiedTime"), found.get("FailureReason", ""))


def switch(stage: Stage, to: Literal["on", "off"]) -> str:
    """Start what brings the endpoint back or takes it away; return the execution's ARN.

    Raises:
        OperationError: the stage has no endpoint, or nothing could be started.
    """
    if look(stage).name is None:
        raise OperationError(f"stage {stage.name} has no endpoint: set serving.enabled, and deploy")
    return executions.start(stage, "DeployStateMachine", {"endpoint": to})
