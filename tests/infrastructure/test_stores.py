"""Stores grant what their methods say and no more, and hold on to what earlier versions made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import cdk_nag
import pytest
from aws_cdk import aws_iam as iam
from synthesis import Templates

from cdk.constructs.permissions import allow
from cdk.constructs.stores import DataBucket, DataKey, NoticeTopic, RecordTable
from ko_reranker.settings import Data

LAST_RELEASE = Path(__file__).parents[1] / "last_release" / "prod-data.template.json"
HOLD_DATA = {"AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::SNS::Topic", "AWS::SageMaker::ModelPackageGroup"}
SETTINGS = Data(retain=False, run_days=90, noncurrent_days=30)


class Stage:
    """A stack with the stores, and a role in it or in another one."""

    def __init__(self, *, apart: bool = False) -> None:
        self.app = cdk.App()
        stack = cdk.Stack(self.app, "Stores")
        removal = cdk.RemovalPolicy.DESTROY
        key = DataKey(stack, "Key", description="", removal_policy=removal)
        logs = cdk.aws_s3.Bucket(stack, "AccessLogs", enforce_ssl=True)
        self.bucket = DataBucket(stack, "Bucket", key=key, access_logs=logs, settings=SETTINGS, removal_policy=removal)
        self.table = RecordTable(stack, "Table", key=key, removal_policy=removal)
        self.topic = NoticeTopic(stack, "Topic", key=key, display_name="", email=None)
        self._owner = cdk.Stack(self.app, "User") if apart else stack
        self.role = iam.Role(self._owner, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))

    def check(self) -> None:
        """Synthesise with cdk-nag's rules, which raise when a finding is left."""
        cdk.Validations.of(self.app).add_plugins(cdk_nag.AwsSolutionsChecks(self.app))
        self.app.synth()

    def allowed(self) -> list[tuple[Any, Any, Any]]:
        """Actions, resources and conditions of the role, with bucket, table, topic and key by their ids."""
        template = self.app.synth().get_stack_by_name(self._owner.stack_name).template
        [policy] = [item for item in template["Resources"].values() if item["Type"] == "AWS::IAM::Policy"]
        statements = policy["Properties"]["PolicyDocument"]["Statement"]
        return [(item["Action"], named(item["Resource"]), item.get("Condition")) for item in statements]


def named(resource: Any) -> Any:
    match resource:
        case list():
            return [named(item) for item in resource]
        case {"Fn::Join": ["", [first, rest]]}:
            return f"{named(first)}{rest}"
        case {"Fn::GetAtt": [logical_id, "Arn"]} | {"Ref": logical_id}:
            return logical_id[:-8]
    raise AssertionError(resource)


def test_what_holds_data_keeps_its_logical_id_and_what_other_stacks_import_its_name(prod: Templates) -> None:
    before = json.loads(LAST_RELEASE.read_text())
    for name, item in before["Resources"].items():
        if item["Type"] in HOLD_DATA:
            assert prod["data"]["Resources"][name]["Type"] == item["Type"], f"{name} is gone, and with it what it holds"
    assert {name for name, output in before["Outputs"].items() if "Export" in output} <= set(prod["data"]["Outputs"])


def test_a_role_gets_the_prefixes_that_it_is_granted() -> None:
    stage = Stage()
    stage.bucket.grant_objects(stage.role, read=["raw/", "runs/"], write=["runs/"])
    assert stage.allowed() == [
        ("s3:ListBucket", "Bucket", {"StringLike": {"s3:prefix": ["raw/*", "runs/*"]}}),
        ("s3:GetObject", ["Bucket/raw/*", "Bucket/runs/*"], None),
        (["s3:PutObject", "s3:AbortMultipartUpload"], "Bucket/runs/*", None),
        (["kms:Decrypt", "kms:GenerateDataKey"], "Key", None),
    ]


def test_who_only_reads_makes_no_data_key() -> None:
    stage = Stage()
    stage.bucket.grant_objects(stage.role, read=["models/"])
    assert stage.allowed()[-1] == ("kms:Decrypt", "Key", None)


def test_a_table_and_the_topic_come_with_their_key() -> None:
    stage = Stage()
    stage.table.grant(stage.role, "GetItem")
    stage.topic.grant_publish(stage.role)
    assert stage.allowed() == [
        ("dynamodb:GetItem", "Table", None),
        (["kms:Decrypt", "kms:GenerateDataKey"], "Key", None),
        ("sns:Publish", "Topic", None),
    ]


@pytest.mark.parametrize("apart", [False, True], ids=["in the same stack", "in another stack"])
def test_a_grants_wildcards_are_excused_and_nobody_elses(apart: bool) -> None:
    stage = Stage(apart=apart)
    stage.bucket.grant_objects(stage.role, read=["runs/"])
    stage.check()

    stage = Stage(apart=apart)
    stage.bucket.grant_objects(stage.role, read=["runs/"])
    allow(stage.role, "s3:GetObject", on=[stage.bucket.bucket.arn_for_objects("models/*")])
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        stage.check()
