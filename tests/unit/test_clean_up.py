"""What empties a stage does so when its stack is deleted, and at no other time that CloudFormation says `Delete`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from loading import load
from moto import mock_aws

clean_up = load("clean_up", "handler")
BUCKET, GROUP, PREFIX = "a-bucket", "ko-reranker-dev", "ko-reranker-dev"
RELEASED = f"{PREFIX}-12345678-1234-1234-1234-123456789012"
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000)


class Stage:
    """A used stage's bucket, packages and released model, and a stack in a given status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[dict[str, Any]] = []
        self.status = ""
        self.s3, self.sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-northeast-2"})
        self.s3.put_object(Bucket=BUCKET, Key="raw/data.jsonl", Body=b"{}")
        self.sagemaker.create_model_package_group(ModelPackageGroupName=GROUP)
        self.sagemaker.create_model(ModelName=RELEASED, ExecutionRoleArn="arn:aws:iam::123456789012:role/r")
        real = boto3.client
        described = SimpleNamespace(describe_stacks=self._describe_stacks)
        monkeypatch.setattr(boto3, "client", lambda name: described if name == "cloudformation" else real(name))
        monkeypatch.setattr(urllib.request, "urlopen", self._hear)

    def _describe_stacks(self, StackName: str) -> dict[str, Any]:
        assert StackName == "stack-id"
        if not self.status:
            raise PermissionError("not allowed to DescribeStacks")
        return {"Stacks": [{"StackStatus": self.status}]}

    def _hear(self, request: urllib.request.Request, timeout: float) -> SimpleNamespace:
        self.answers.append(json.loads(request.data))  # type: ignore[arg-type]
        return SimpleNamespace(close=lambda: None)

    def ask(self, kind: str, status: str) -> dict[str, Any]:
        self.status = status
        event = {
            "RequestType": kind,
            "StackId": "stack-id",
            "RequestId": "r",
            "LogicalResourceId": "CleanUp",
            "PhysicalResourceId": "CleanUp",
            "ResponseURL": "https://answer/",
            "ResourceProperties": {"Buckets": [BUCKET], "PackageGroup": GROUP, "Prefix": PREFIX},
        }
        clean_up.handler(event, CONTEXT)
        return self.answers[-1]

    @property
    def objects(self) -> int:
        return self.s3.list_objects_v2(Bucket=BUCKET)["KeyCount"]

    @property
    def models(self) -> int:
        return len(self.sagemaker.list_models()["Models"])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-northeast-2")
    with mock_aws():
        yield Stage(monkeypatch)


@pytest.mark.parametrize("status", ["DELETE_IN_PROGRESS", "DELETE_FAILED"])
def test_a_stack_that_is_deleted_is_emptied(stage: Stage, status: str) -> None:
    assert stage.ask("Delete", status)["Status"] == "SUCCESS"
    assert (stage.objects, stage.models) == (0, 0)


def test_a_creation_that_is_rolled_back_empties_what_it_made_and_no_releases(stage: Stage) -> None:
    assert stage.ask("Delete", "ROLLBACK_IN_PROGRESS")["Status"] == "SUCCESS"
    assert (stage.objects, stage.models) == (0, 1)


@pytest.mark.parametrize(
    "status",
    [
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_FAILED",
        "UPDATE_IN_PROGRESS",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "IMPORT_ROLLBACK_IN_PROGRESS",
        "A_STATUS_OF_TOMORROW",
    ],
)
def test_a_stack_that_lives_on_keeps_everything(stage: Stage, status: str) -> None:
    assert stage.ask("Delete", status)["Status"] == "SUCCESS"
    assert (stage.objects, stage.models) == (1, 1)


def test_nothing_is_emptied_where_the_status_is_not_to_be_had(stage: Stage) -> None:
    answer = stage.ask("Delete", "")
    assert answer["Status"] == "FAILED" and "DescribeStacks" in answer["Reason"]
    assert (stage.objects, stage.models) == (1, 1)


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_its_identity_never_changes(stage: Stage, kind: str) -> None:
    assert stage.ask(kind, "UPDATE_IN_PROGRESS")["PhysicalResourceId"] == "CleanUp"
    assert (stage.objects, stage.models) == (1, 1)
