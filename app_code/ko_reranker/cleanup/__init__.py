"""What must be emptied before CloudFormation can delete a stage: buckets with versions, the registry, and what releases made.

Read by the custom resource that goes first when a stack is deleted, by ``ko-reranker destroy``, and, for what is old, by the
daily housekeeping. Clients of boto3 come from
the caller; doing a thing twice is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEYS_AT_A_TIME = 1_000  # the most that DeleteObjects takes


class NotEmptied(Exception):
    """Something is left; the message says what and why."""


def empty_bucket(s3: Any, bucket: str, go_on: Callable[[], bool] = lambda: True) -> int:
    """Delete every object of a bucket, all versions and delete markers; return how many there were.

    Args:
        go_on: asked before every thousand; False ends the work.

    Raises:
        NotEmptied: when an object can't be deleted, or there was no time for all.
    """
    count = 0
    for batch in _batches(_versions(s3, bucket), _KEYS_AT_A_TIME):
        if not go_on():
            raise NotEmptied(f"{bucket} still has objects, and the time is over: `ko-reranker destroy` has as much as it takes")
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise NotEmptied(f"s3://{bucket}/{error.get('Key')} can't be deleted: {error.get('Message') or error.get('Code')}")
        count += len(batch)
    return count


def delete_packages(sagemaker: Any, group: str) -> int:
    """Delete all model packages of a group; return how many there were."""
    arns = [
        item["ModelPackageArn"]
        for item in _all(sagemaker, "list_model_packages", "ModelPackageSummaryList", ModelPackageGroupName=group)
    ]
    for arn in arns:
        sagemaker.delete_model_package(ModelPackageName=arn)
    return len(arns)


def delete_released(sagemaker: Any, prefix: str, *, before: datetime | None = None, but: Collection[str] = ()) -> int:
    """Delete the endpoint configurations and models that releases of a stage made; return how many there were.

    Those that a stack made have names of CloudFormation's and go with it.

    Args:
        before: only those that were made earlier.
        but: names of those that stay.
    """
    made = re.compile(rf"{re.escape(prefix)}-{_UUID}")
    count = 0
    for kind, listed in (("EndpointConfig", "EndpointConfigs"), ("Model", "Models")):
        snake = "endpoint_config" if kind == "EndpointConfig" else "model"
        names = [
            item[f"{kind}Name"]
            for item in _all(sagemaker, f"list_{snake}s", listed, NameContains=f"{prefix}-")
            if made.fullmatch(item[f"{kind}Name"])
            and item[f"{kind}Name"] not in but
            and (before is None or item["CreationTime"] < before)
        ]
        for name in names:
            getattr(sagemaker, f"delete_{snake}")(**{f"{kind}Name": name})
        count += len(names)
    return count


def _versions(s3: Any, bucket: str) -> Iterator[dict[str, str]]:
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield {"Key": item["Key"], "VersionId": item["VersionId"]}
    except s3.exceptions.NoSuchBucket:
        return


def _all(sagemaker: Any, operation: str, member: str, **arguments: Any) -> Sequence[Mapping[str, Any]]:
    """Every item of a list, read to its end before any of them is deleted; none of a group that isn't there."""
    try:
        return [item for page in sagemaker.get_paginator(operation).paginate(**arguments) for item in page[member]]
    except sagemaker.exceptions.ClientError as error:
        if "does not exist" in error.response["Error"].get("Message", ""):
            return []
        raise


def _batches(items: Iterator[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    batch: list[dict[str, str]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
