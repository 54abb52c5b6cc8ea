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

from cdk import release_diff
from cdk.release_diff import Change, changes, last_release


@pytest.mark.parametrize("stage", ["local", "prod"])
def test_an_upgrade_from_the_last_release_loses_nothing(stage: str, request: pytest.FixtureRequest) -> None:
    before, after = last_release(stage), request.getfixturevalue(stage)
    assert {"api", "data", "pipeline", "serving"} <= set(before)
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
    never = ("AWS::ApiGateway::RestApi", "AWS::CloudFront::Distribution", "AWS::KMS::Key")
    assert all(replacing(kind) or kind in never for kind in HOLD)


# As the CDK's command line writes it.
DIFF = """Stack ko-reranker-prod-data
Resources
[+] AWS::Logs::LogGroup Keeper/Logs KeeperLogs17C1
[~] AWS::DynamoDB::Table Releases/Default ReleasesE6BA
 └─ [+] DeletionProtectionEnabled
     └─ true
[~] AWS::S3::Bucket Bucket Bucket8390 replace
 └─ [~] BucketName (requires replacement)
[~] AWS::SNS::Topic Topic/Default TopicBFC7 may be replaced
[-] AWS::KMS::Key Key Key961B orphan

Outputs
[+] Output Topic TopicArn: {"Ref":"TopicBFC7"}
"""


def test_a_diff_says_what_becomes_of_each_resource() -> None:
    assert changes("data", DIFF) == [
        Change("data", "AWS::Logs::LogGroup", "KeeperLogs17C1", "added", None),
        Change("data", "AWS::DynamoDB::Table", "ReleasesE6BA", "changed", None),
        Change("data", "AWS::S3::Bucket", "Bucket8390", "changed", "replace"),
        Change("data", "AWS::SNS::Topic", "TopicBFC7", "changed", "may be replaced"),
        Change("data", "AWS::KMS::Key", "Key961B", "gone", "orphan"),
    ]
    assert changes("data", "Stack ko-reranker-prod-data\nThere were no differences\n") == []
    with pytest.raises(ValueError, match="is not what `cdk diff` used to write"):
        changes("data", "Stack ko-reranker-prod-data\n~ Bucket: replaced\n")


@pytest.mark.parametrize(
    ("explained", "status", "said"),
    [
        (
            ["AWS::S3::Bucket Bucket*", "AWS::SNS::Topic *", "AWS::KMS::Key *"],
            0,
            "replace: AWS::S3::Bucket Bucket8390: because",
        ),
        (["AWS::SNS::Topic *", "AWS::KMS::Key *"], 1, "replace: AWS::S3::Bucket Bucket8390: NO REASON"),
        (
            ["AWS::S3::*", "AWS::SNS::*", "AWS::KMS::*", "AWS::SQS::*"],
            1,
            "nothing is lost any more that data AWS::SQS::* explains",
        ),
    ],
)
def test_what_an_upgrade_loses_needs_a_reason(
    explained: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "tests" / "last_release"
    kept.mkdir(parents=True)
    reasons = [{"stack": "data", "resource": resource, "reason": "because"} for resource in explained]
    (kept / "expected.json").write_text(json.dumps(reasons))
    monkeypatch.setattr(release_diff, "ROOT", tmp_path)
    monkeypatch.setattr(release_diff, "KEPT", kept)
    monkeypatch.setattr(release_diff.Project, "find", lambda root: None)
    monkeypatch.setattr(release_diff, "compare", lambda project, stage: [("data", DIFF)])
    monkeypatch.setattr("sys.argv", ["release_diff"])
    with pytest.raises(SystemExit) as ended:
        release_diff.main()
    printed = capsys.readouterr().out
    assert (ended.value.code, said in printed) == (status, True), printed
    assert (tmp_path / "build" / "release_diff" / "prod.txt").read_text() == DIFF


def test_a_release_keeps_its_templates_without_metadata(
    prod: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_diff, "KEPT", tmp_path)
    (tmp_path / "prod-gone.template.json").write_text("{}")
    release_diff.keep("prod", prod)
    kept = last_release("prod")
    assert set(kept) == set(prod)
    assert all("Metadata" not in item for template in kept.values() for item in template["Resources"].values())
    assert [loss for stack in prod for loss in losses(prod[stack], kept[stack])] == []
