"""What a company's account asks for reaches everything: a boundary and a path, tags, a key and a bootstrap of its own."""

from __future__ import annotations

import importlib
import json
from typing import Any

import aws_cdk as cdk
import pytest
from synthesis import CONTEXT, ROOT, Templates, synthesise
from template_differences import machines
from test_templates import resources

from cdk.constructs.rate_rule import SECRET_HEADERS
from cdk.variants import VARIANTS
from ko_reranker.settings import SettingsError, load_settings

GIVEN = VARIANTS["everything"]
KEY, BOUNDARY = GIVEN["data.key_arn"], GIVEN["identity.permissions_boundary"]
(FORMER,) = json.loads(GIVEN["data.former_key_arns"])


def test_every_role_has_the_boundary_and_the_path(everything: Templates) -> None:
    roles = dict(resources(everything, "AWS::IAM::Role"))
    assert len(roles) > 15
    for name, item in roles.items():
        found = (item["Properties"].get("PermissionsBoundary"), item["Properties"].get("Path"))
        assert found == (BOUNDARY, "/ko-reranker/"), name


def test_a_stage_without_demands_has_neither(prod: Templates) -> None:
    for _, item in resources(prod, "AWS::IAM::Role"):
        assert not {"PermissionsBoundary", "Path"} & set(item["Properties"])


def test_the_bootstrap_is_the_one_of_the_qualifier(everything: Templates) -> None:
    text = json.dumps(everything)
    assert "hnb659fds" not in text
    assert "cdk-team1-assets-" in text and "/cdk-bootstrap/team1/version" in text


def test_jobs_models_and_configurations_have_the_tags_that_resources_have(
    checked_everything: tuple[Templates, cdk.App],
) -> None:
    everything, app = checked_everything
    tags = {"project": "ko-reranker", "stage": "prod", "cost-center": "4711", "Owner": "search"}
    stacks = [child for child in app.node.children if isinstance(child, cdk.Stack)]
    assert stacks and all(stack.tags.tag_values() == tags for stack in stacks)
    made = {
        state: body["Parameters"]["Tags"]
        for stack in ("pipeline", "serving")
        for _, definition in machines(everything[stack])
        for state, body in definition["States"].items()
        if "Tags" in body.get("Parameters", {})
    }
    assert set(made) == {
        "Train",
        "Evaluate",
        "Mine hard negatives",
        "Create the model",
        "Create the endpoint configuration",
        "Create the endpoint",
    }
    assert all({tag["Key"]: tag["Value"] for tag in found} == tags for found in made.values())


def test_a_key_that_is_there_takes_the_place_of_ours_and_the_former_stays_readable(everything: Templates) -> None:
    assert not dict(resources(everything, "AWS::KMS::Key"))
    for _, item in resources({"data": everything["data"]}, "AWS::DynamoDB::Table"):
        assert item["Properties"]["SSESpecification"]["KMSMasterKeyId"] == KEY
    ((_, topic),) = list(resources(everything, "AWS::SNS::Topic"))
    assert topic["Properties"]["KmsMasterKeyId"] == KEY
    encrypted = [item for _, item in resources(everything, "AWS::S3::Bucket") if KEY in json.dumps(item)]
    assert len(encrypted) == 1
    policies = [item["Properties"]["PolicyDocument"] for _, item in resources(everything, "AWS::IAM::Policy")]
    uses = [s["Resource"] for p in policies for s in p["Statement"] if "kms:" in json.dumps(s["Action"])]
    assert uses and all(use == [KEY, FORMER] for use in uses)


def test_what_a_web_acl_refuses_is_logged_without_the_headers_that_hold_keys(
    everything: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    acls = [name for name, _ in resources(everything, "AWS::WAFv2::WebACL")]
    logged = [item["Properties"] for _, item in resources(everything, "AWS::WAFv2::LoggingConfiguration")]
    assert len(acls) == len(logged) == 2
    groups = {item["Properties"].get("LogGroupName") for _, item in resources(everything, "AWS::Logs::LogGroup")}
    for item in logged:
        assert item["ResourceArn"]["Fn::GetAtt"][0] in acls
        hidden = {field["SingleHeader"]["Name"] for field in item["RedactedFields"]}
        assert hidden == set(SECRET_HEADERS)
        (arn,) = item["LogDestinationConfigs"]
        assert arn["Fn::Join"][1][-1].rpartition(":")[2] in groups
        assert item["LoggingFilter"]["DefaultBehavior"] == "DROP"
    monkeypatch.syspath_prepend(str(ROOT / "lambda" / "authorizer"))
    assert set(importlib.import_module("api_keys").KEY_HEADERS) <= set(SECRET_HEADERS)


def test_what_reaches_no_target_is_kept_and_told_of(prod: Templates) -> None:
    for stack in ("pipeline", "serving"):
        templates = {stack: prod[stack]}
        ((queue, item),) = list(resources(templates, "AWS::SQS::Queue"))
        assert item["Properties"]["SqsManagedSseEnabled"] is True
        targets = [t for _, rule in resources(templates, "AWS::Events::Rule") for t in rule["Properties"]["Targets"]]
        assert len(targets) >= 2
        for target in targets:
            assert target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"] == [queue, "Arn"]
    alarms = [item["Properties"] for _, item in resources(prod, "AWS::CloudWatch::Alarm")]
    assert len([alarm for alarm in alarms if "AWS/SQS" in json.dumps(alarm)]) == 2


def test_the_images_repository_scans_and_lets_no_tag_change(prod: Templates) -> None:
    ((_, item),) = list(resources(prod, "AWS::ECR::Repository"))
    repository = item["Properties"]
    assert repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
    assert repository["ImageTagMutability"] == "IMMUTABLE"
    (rule,) = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    assert rule["selection"]["tagStatus"] == "untagged", "a package of long ago needs its image"


def test_no_output_holds_a_secret(everything: Templates, prod: Templates, local: Templates) -> None:
    for templates in (everything, prod, local):
        for stack in templates.values():
            for name, output in stack.get("Outputs", {}).items():
                text = json.dumps(output["Value"])
                assert "{{resolve:" not in text and "SecretString" not in text, name
                assert not any(kind in text for kind in secrets_of(stack)), name


def secrets_of(template: dict[str, Any]) -> list[str]:
    """References to what holds a secret; a key's id is none."""
    kinds = ("AWS::SecretsManager::Secret",)
    return [f'"{name}"' for name, item in template["Resources"].items() if item["Type"] in kinds]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("identity.permissions_boundary", "boundary", "identity.permissions_boundary"),
        ("identity.role_path", "ko-reranker", "identity.role_path"),
        ("identity.bootstrap_qualifier", "Team-1", "identity.bootstrap_qualifier"),
        ("tags", '{"stage": "x"}', "stage are not yours to set"),
        ("tags", '{"aws:x": "y"}', "aws:x are not yours"),
        ("data.key_arn", "alias/mine", "data.key_arn"),
        ("data.key_arn", KEY.replace("ap-northeast-2", "us-east-1"), "must be keys of ap-northeast-2"),
        ("data.former_key_arns", f'["{FORMER.replace("ap-northeast-2", "us-east-1")}"]', "must be keys of ap-northeast-2"),
    ],
)
def test_a_demand_that_cannot_be_met_is_told_by_its_key(key: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**CONTEXT, "stage": "prod", key: value})
    assert said in str(caught.value)


def test_the_present_key_is_not_among_the_former() -> None:
    with pytest.raises(SettingsError, match="one of former_key_arns"):
        load_settings({**CONTEXT, "stage": "prod", "data.key_arn": KEY, "data.former_key_arns": f'["{KEY}"]'})


def test_a_stage_without_a_budget_lets_none_in() -> None:
    templates, _ = synthesise("prod", **{"data.key_arn": KEY})
    assert "budgets.amazonaws.com" not in json.dumps(templates["data"])
