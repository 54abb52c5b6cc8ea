"""Whether CloudFormation may change the endpoint now: not while a release holds the lock, nor while there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ko_reranker.custom_resource import stack_status

# The state machine also checks the endpoint after every change of it, which holds the lock for seconds.
_ATTEMPTS = 4


class ReleaseUnderWay(Exception):
    """A release holds the lock; the message says which and what to do."""


class EndpointAway(Exception):
    """There is no endpoint to update; the message says what to do."""


def let_pass(
    event: dict[str, Any],
    cloudformation: Any,
    *,
    held_by: Callable[[], str | None],
    wait: Callable[[], None],
    is_away: Callable[[], bool],
) -> str:
    """Return the resource's physical id, always the same, once no release is under way and there is an endpoint to update.

    What goes back always passes: a stack that is rolled back or deleted has nothing better to wait for.

    Args:
        held_by: tells which execution holds the lock, if any.
        wait: called between two readings of the lock.
        is_away: tells whether there is no endpoint. What is only being made isn't asked for.

    Raises:
        ReleaseUnderWay: when the lock is still held at the last reading.
        EndpointAway: when it was taken away.
    """
    if event["RequestType"] != "Delete" and "ROLLBACK" not in stack_status(cloudformation, event):
        for attempt in range(_ATTEMPTS):
            if attempt:
                wait()
            execution = held_by()
            if not execution:
                break
        else:
            raise ReleaseUnderWay(
                f"A release is under way, execution {execution}: deploy again when it is done (`ko-reranker status` shows it). "
                "The endpoint was left as it is."
            )
        if event["RequestType"] == "Update" and is_away():
            raise EndpointAway(
                "The endpoint was taken away, and only one that is there can be changed: bring it back "
                "(`ko-reranker endpoint on`), then deploy again."
            )
    return str(event["LogicalResourceId"])


def holder(dynamodb: Any, step_functions: Any, table: str, lock_id: str) -> str | None:
    """Return the ARN of the execution that holds the lock; None where nobody does, or one that has ended.

    An execution that was aborted couldn't give its lock back: the next release takes it over.
    """
    item = dynamodb.get_item(TableName=table, Key={"id": {"S": lock_id}}, ConsistentRead=True).get("Item")
    if not item:
        return None
    execution = item["execution"]["S"]
    try:
        status = step_functions.describe_execution(executionArn=execution)["status"]
    except step_functions.exceptions.ExecutionDoesNotExist:
        return None
    return execution if status == "RUNNING" else None


def away(sagemaker: Any, endpoint: str) -> bool:
    """Return whether there is no endpoint of this name."""
    try:
        sagemaker.describe_endpoint(EndpointName=endpoint)
    except sagemaker.exceptions.ClientError as error:
        if "Could not find endpoint" not in str(error):  # SageMaker has no error of its own for it
            raise
        return True
    return False
