"""An upgrade of a stage never takes away what it holds: this version's templates beside the last release's, kept here."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthesis import Templates
from upgrades import HOLD, losses, replacing

LAST_RELEASE = Path(__file__).parents[1] / "last_release"


def last_release(stage: str) -> Templates:
    return {path.name.split("-")[1].split(".")[0]: json.loads(path.read_text()) for path in LAST_RELEASE.glob(f"{stage}-*")}


@pytest.mark.parametrize("stage", ["local", "prod"])
def test_an_upgrade_from_the_last_release_loses_nothing(stage: str, request: pytest.FixtureRequest) -> None:
    before, after = last_release(stage), request.getfixturevalue(stage)
    assert {"data", "pipeline", "serving"} <= set(before)
    assert [f"{stack}: {loss}" for stack in before for loss in losses(before[stack], after[stack])] == []


def test_and_so_does_one_that_switches_the_endpoint_on_or_off(prod: Templates, prod_without_endpoint: Templates) -> None:
    for before, after in ((prod, prod_without_endpoint), (prod_without_endpoint, prod)):
        assert [loss for stack in before for loss in losses(before[stack], after[stack])] == []


def first(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(item for item in template["Resources"].values() if item["Type"] == kind)


def renamed(template: dict[str, Any]) -> None:
    name = next(name for name, item in template["Resources"].items() if item["Type"] == "AWS::S3::Bucket")
    template["Resources"][f"{name}2"] = template["Resources"].pop(name)


def other_key(template: dict[str, Any]) -> None:
    first(template, "AWS::DynamoDB::Table")["Properties"]["KeySchema"][0]["AttributeName"] = "key"


def other_name(template: dict[str, Any]) -> None:
    first(template, "AWS::SageMaker::ModelPackageGroup")["Properties"]["ModelPackageGroupName"] = "other"


def unkept(template: dict[str, Any]) -> None:
    first(template, "AWS::KMS::Key")["DeletionPolicy"] = "Delete"


def other_type(template: dict[str, Any]) -> None:
    first(template, "AWS::SNS::Topic")["Type"] = "AWS::SQS::Queue"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (renamed, "goes"),
        (other_key, "is replaced: KeySchema"),
        (other_name, "is replaced: ModelPackageGroupName"),
        (unkept, "DeletionPolicy"),
        (other_type, "becomes a"),
    ],
)
def test_what_would_lose_something_is_told(prod: Templates, spoil: Callable[[dict[str, Any]], None], said: str) -> None:
    after = copy.deepcopy(prod["data"])
    spoil(after)
    assert [said in loss for loss in losses(prod["data"], after)] == [True]


def test_the_schemas_say_what_replaces_a_resource() -> None:
    assert ("TableName",) in replacing("AWS::DynamoDB::Table") and ("KeySchema",) in replacing("AWS::DynamoDB::Table")
    assert all(replacing(kind) or kind in ("AWS::KMS::Key", "AWS::ApiGateway::RestApi") for kind in HOLD)
