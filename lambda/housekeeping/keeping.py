"""What nothing else takes away: logs without an end, models and endpoint configurations of releases long past."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from ko_reranker.cleanup import delete_released


def expire_logs(logs: Any, names: Sequence[str], days: int) -> list[str]:
    """Let log groups forget what is older than some days; return those that had no end until now.

    A group may be shared with others in the account: whoever has given it an end, of whatever length, is left alone. One
    that is not there yet has its turn another day.

    Args:
        names: of the groups that services make without asking.
    """
    found = []
    for name in names:
        for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=name):
            endless = [group["logGroupName"] for group in page["logGroups"] if "retentionInDays" not in group]
            if name in endless:
                logs.put_retention_policy(logGroupName=name, retentionInDays=days)
                found.append(name)
    return found


def expire_releases(sagemaker: Any, endpoint: str, days: int, now: datetime) -> int:
    """Delete models and endpoint configurations that releases made long ago, but what the endpoint runs; return how many.

    Args:
        endpoint: its name, which begins theirs.
    """
    return delete_released(sagemaker, endpoint, before=now - timedelta(days=days), but=list(_running(sagemaker, endpoint)))


def _running(sagemaker: Any, endpoint: str) -> Iterator[str]:
    """The names of what the endpoint runs; none where there is no endpoint."""
    for page in sagemaker.get_paginator("list_endpoints").paginate(NameContains=endpoint):
        if endpoint not in [item["EndpointName"] for item in page["Endpoints"]]:
            continue
        name = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        yield name
        for variant in sagemaker.describe_endpoint_config(EndpointConfigName=name)["ProductionVariants"]:
            yield variant["ModelName"]
