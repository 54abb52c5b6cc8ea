"""A custom resource that does nothing until its stack is deleted, and then empties what CloudFormation would be refused for."""

from __future__ import annotations

from typing import Any

import boto3

from ko_reranker.cleanup import delete_packages, delete_released, empty_bucket
from ko_reranker.custom_resource import answer, stack_status

# Of the function's time, what telling CloudFormation of a failure needs.
_SPARED_MILLISECONDS = 30_000
# The stack's creation failed: all that it has is what it just made.
_CREATION_ROLLED_BACK = "ROLLBACK_IN_PROGRESS"


def handler(event: dict[str, Any], context: Any) -> None:
    def work() -> str:
        if event["RequestType"] == "Delete":
            _clean_up(event["ResourceProperties"], stack_status(boto3.client("cloudformation"), event), context)
        # Always the same: an update never makes CloudFormation delete "the old one", and with it what is there.
        return str(event["LogicalResourceId"])

    answer(event, work)


def _clean_up(what: dict[str, Any], status: str, context: Any) -> None:
    deleted = status.startswith("DELETE_")
    if not deleted and status != _CREATION_ROLLED_BACK:
        return  # an update that added this was rolled back, or one took it away: the stage lives on, and its data with it
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    for bucket in what.get("Buckets", ()):
        empty_bucket(s3, bucket, lambda: context.get_remaining_time_in_millis() > _SPARED_MILLISECONDS)
    if "PackageGroup" in what:
        delete_packages(sagemaker, what["PackageGroup"])
    # Known by their names alone: a stack that was never made has released none, whoever made those.
    if "Prefix" in what and deleted:
        delete_released(sagemaker, what["Prefix"])
