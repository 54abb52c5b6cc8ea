"""What is old and nobody's goes daily; what runs, is young, or belongs to others stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from loading import load
from moto import mock_aws

KEEPING = load("housekeeping", "keeping")
ENDPOINT = "ko-reranker-prod"
ROLE = "arn:aws:iam::123456789012:role/r"
LATER = timedelta(days=91)


def released(number: int) -> str:
    return f"{ENDPOINT}-{number:08d}-1234-1234-1234-123456789012"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-northeast-2")
    with mock_aws():
        yield


@pytest.fixture
def sagemaker() -> Any:
    """Three releases, the second of which the endpoint runs, and a model that a stack made."""
    client = boto3.client("sagemaker")
    for name in (released(1), released(2), released(3), "Model-abc"):
        client.create_model(ModelName=name, ExecutionRoleArn=ROLE)
    for name in (released(1), released(2), released(3)):
        variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    client.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=released(2))
    return client


def left(client: Any) -> tuple[set[str], set[str]]:
    models = {item["ModelName"] for item in client.list_models()["Models"]}
    return models, {item["EndpointConfigName"] for item in client.list_endpoint_configs()["EndpointConfigs"]}


def test_old_releases_go_but_what_the_endpoint_runs_and_what_a_stack_made(sagemaker: Any) -> None:
    assert KEEPING.expire_releases(sagemaker, ENDPOINT, 90, datetime.now(UTC) + LATER) == 4
    assert left(sagemaker) == ({released(2), "Model-abc"}, {released(2)})


def test_young_ones_stay(sagemaker: Any) -> None:
    before = left(sagemaker)
    assert KEEPING.expire_releases(sagemaker, ENDPOINT, 90, datetime.now(UTC)) == 0
    assert left(sagemaker) == before


def test_where_no_endpoint_runs_only_the_age_counts(sagemaker: Any) -> None:
    sagemaker.delete_endpoint(EndpointName=ENDPOINT)
    assert KEEPING.expire_releases(sagemaker, ENDPOINT, 90, datetime.now(UTC) + LATER) == 6


def test_logs_without_an_end_get_one_and_nobody_elses_is_changed() -> None:
    logs = boto3.client("logs")
    for name in ("/aws/sagemaker/TrainingJobs", "/aws/sagemaker/ProcessingJobs", "/aws/sagemaker/TrainingJobs-of-others"):
        logs.create_log_group(logGroupName=name)
    logs.put_retention_policy(logGroupName="/aws/sagemaker/ProcessingJobs", retentionInDays=7)
    names = ["/aws/sagemaker/TrainingJobs", "/aws/sagemaker/ProcessingJobs", "/aws/sagemaker/Endpoints/not-there-yet"]
    assert KEEPING.expire_logs(logs, names, 90) == ["/aws/sagemaker/TrainingJobs"]
    days = {group["logGroupName"]: group.get("retentionInDays") for group in logs.describe_log_groups()["logGroups"]}
    assert days == {
        "/aws/sagemaker/TrainingJobs": 90,
        "/aws/sagemaker/ProcessingJobs": 7,
        "/aws/sagemaker/TrainingJobs-of-others": None,
    }
    assert KEEPING.expire_logs(logs, names, 90) == []
