"""Answering CloudFormation, which waits for a custom resource until it hears how it went."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger(__name__)
_REASON_CHARACTERS = 1000  # of an answer's 4096 bytes


def stack_status(cloudformation: Any, event: dict[str, Any]) -> str:
    """What CloudFormation is doing with the resource's stack, such as ``UPDATE_ROLLBACK_IN_PROGRESS``.

    A request doesn't say: `Delete` comes when the stack is deleted, and also when an update that added the resource is rolled
    back, or one that removes it has succeeded.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html

    Args:
        cloudformation: boto3's client.
        event: CloudFormation's request.
    """
    status: str = cloudformation.describe_stacks(StackName=event["StackId"])["Stacks"][0]["StackStatus"]
    return status


def answer(event: dict[str, Any], work: Callable[[], str]) -> None:
    """Do the work and tell CloudFormation how it went: an error becomes the resource's failure, with its sentence.

    Args:
        event: CloudFormation's request.
        work: returns the resource's physical id; another one than before replaces the resource.
    """
    body = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
    try:
        body |= {"Status": "SUCCESS", "PhysicalResourceId": work()}
    except Exception as error:
        LOGGER.exception("the request failed")
        known = event.get("PhysicalResourceId", "none")
        body |= {"Status": "FAILED", "Reason": str(error)[:_REASON_CHARACTERS], "PhysicalResourceId": known}
    # Without a content type: the URL is signed without one.
    request = urllib.request.Request(  # noqa: S310 - CloudFormation's own address
        event["ResponseURL"], json.dumps(body).encode(), {"content-type": ""}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=20).close()  # noqa: S310
