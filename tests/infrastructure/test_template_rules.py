"""The templates keep the services' rules, and the last release's, which broke some, are told which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthesis import Templates

from ko_reranker.operations.template_rules import RULES, breaches

LAST_RELEASE = Path(__file__).parents[1] / "last_release"


def last_release(stage: str) -> Templates:
    return {path.name.split("-")[1].split(".")[0]: json.loads(path.read_text()) for path in LAST_RELEASE.glob(f"{stage}-*")}


def test_prod_and_local_break_no_rule(prod: Templates, prod_without_endpoint: Templates, local: Templates) -> None:
    for templates in (prod, prod_without_endpoint, local):
        assert breaches(templates) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_finds_what_the_last_release_broke(rule) -> None:
    found = list(rule(last_release("prod")))
    assert found, f"{rule.__name__} can't fail"
    assert all(item.rule == rule.__name__ and item.message and item.source.startswith("https://") for item in found)


def test_names_that_a_failed_first_deploy_would_leave_behind_are_all_found() -> None:
    found = {breach.where for breach in breaches(last_release("prod")) if breach.rule == "kept_names_are_given_back"}
    assert {where.rstrip("0123456789ABCDEF") for where in found} == {
        "data: ModelPackages", "data: LiveModel", "pipeline: Repository"
    }  # fmt: skip


def test_documented_rights_that_the_last_release_lacked_are_all_found() -> None:
    found = [(b.where.rstrip("0123456789ABCDEF"), b.message) for b in breaches(last_release("prod"))]
    retrain, training, processing = "pipeline: RetrainingRetrainRole", "pipeline: TrainingRole", "pipeline: ProcessingRole"
    for expected in (
        (retrain, "lacks sagemaker:ListTags"),
        (retrain, "lacks ecr:BatchGetImage"),
        (retrain, "lacks ecr:DescribeImages"),
        (training, "lacks kms:Encrypt"),
        (processing, "lacks kms:Encrypt"),
        ("serving: EndpointRole", "automatic rollback needs cloudwatch:DescribeAlarms on its alarms"),
        ("serving: DeploymentDeployRole", "automatic rollback needs cloudwatch:DescribeAlarms on its alarms"),
    ):
        assert expected in found


def test_registering_may_look_at_the_models_it_registers(prod: Templates) -> None:
    """The last release's role could read under runs/ alone, where no model lies."""
    policies = [
        item["Properties"]
        for name, item in prod["pipeline"]["Resources"].items()
        if item["Type"] == "AWS::IAM::Policy" and name.startswith("RetrainingRetrainRole")
    ]
    reads = [s for p in policies for s in p["PolicyDocument"]["Statement"] if "s3:GetObject" in json.dumps(s["Action"])]
    assert any("/models/*" in json.dumps(statement["Resource"]) for statement in reads)
