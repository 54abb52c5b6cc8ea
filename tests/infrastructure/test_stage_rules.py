"""`ko-reranker doctor --offline`: every rule holds for the stages, and finds the fault that it is there for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthesis import CONTEXT, ROOT, Templates, synthesise
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.operations import synthesis
from ko_reranker.operations.stage_rules import RULES

GIVEN = {"serving.enabled": "true", "api.waf_requests_per_5_minutes": "2000", "api.origin_key": "2"}


@pytest.fixture(scope="module")
def rated() -> Templates:
    """Prod with everything that a rule is about."""
    return synthesise("prod", **GIVEN)[0]


@pytest.fixture(scope="module")
def dev() -> Templates:
    return synthesise("dev", **{"serving.enabled": "true"})[0]


def broken(templates: Templates) -> dict[str, list[str]]:
    found = {rule.__name__: [f"{item.where}: {item.message}" for item in rule(templates)] for rule in RULES}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_prod_and_dev_break_no_rule(rated: Templates, dev: Templates) -> None:
    assert broken(rated) == {}
    assert broken(dev) == {}


def resources(templates: Templates, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, item) for t in templates.values() for name, item in t["Resources"].items() if item["Type"] == kind)


def first(templates: Templates, kind: str) -> dict[str, Any]:
    return next(resources(templates, kind))[1]["Properties"]


def machine(templates: Templates, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a state machine's definition; what CloudFormation fills in is filled in."""
    for _, item in resources(templates, "AWS::StepFunctions::StateMachine"):
        if synthesis.text(item["Properties"]["StateMachineName"]).endswith(name):
            definition = json.loads(synthesis.text(item["Properties"]["DefinitionString"]))
            edit(definition["States"])
            item["Properties"]["DefinitionString"] = json.dumps(definition)


def forbid(templates: Templates, owner: str, action: str) -> None:
    for name, item in resources(templates, "AWS::IAM::Policy"):
        if owner in name:
            for statement in item["Properties"]["PolicyDocument"]["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                statement["Action"] = [other for other in actions if other != action]


def t4(templates: Templates) -> None:
    def edit(states: dict[str, Any]) -> None:
        states["Evaluate"]["Parameters"]["ProcessingResources"]["ClusterConfig"]["InstanceType"] = "ml.g4dn.xlarge"

    machine(templates, "retrain", edit)


def bf16_on_a_t4(templates: Templates) -> None:
    first(templates, "AWS::SageMaker::EndpointConfig")["ProductionVariants"][0]["InstanceType"] = "ml.g4dn.xlarge"
    first(templates, "AWS::SageMaker::Model")["PrimaryContainer"]["Environment"]["KO_RERANKER_DTYPE"] = "bf16"


def default_host(templates: Templates) -> None:
    del first(templates, "AWS::SageMaker::EndpointConfig")["ProductionVariants"][0]["InferenceAmiVersion"]


def default_host_of_a_release(templates: Templates) -> None:
    def edit(states: dict[str, Any]) -> None:
        del states["Create the endpoint configuration"]["Parameters"]["ProductionVariants"][0]["InferenceAmiVersion"]

    machine(templates, "deploy", edit)


def small_build(templates: Templates) -> None:
    first(templates, "AWS::CodeBuild::Project")["Environment"]["ComputeType"] = "BUILD_GENERAL1_SMALL"


def trusted_prefix(templates: Templates) -> None:
    def edit(states: dict[str, Any]) -> None:
        states["Train"]["ResultSelector"]["model_data.$"] = "$.ModelArtifacts.S3ModelArtifacts"

    machine(templates, "retrain", edit)


def unkept_name(templates: Templates) -> None:
    next(resources(templates, "AWS::SageMaker::ModelPackageGroup"))[1]["DeletionPolicy"] = "Retain"


def full_bucket(templates: Templates) -> None:
    for _, item in resources(templates, "AWS::S3::Bucket"):
        item["DeletionPolicy"] = "Delete"


def full_group(templates: Templates) -> None:
    for _, item in resources(templates, "AWS::SageMaker::ModelPackageGroup"):
        item["DeletionPolicy"] = "Delete"


def written_parameter(templates: Templates) -> None:
    properties = {"Name": "/ko-reranker/prod/live-model", "Type": "StringList", "Value": "none,none,none"}
    templates["data"]["Resources"]["LiveModel"] = {"Type": "AWS::SSM::Parameter", "Properties": properties}


def any_approval(templates: Templates) -> None:
    for _, item in resources(templates, "AWS::Events::Rule"):
        item["Properties"].get("EventPattern", {}).get("detail", {}).pop("$or", None)


def recorded_only(templates: Templates) -> None:
    def edit(states: dict[str, Any]) -> None:
        for body in states.values():
            if "describeEndpoint" in body.get("Resource", ""):
                body["Resource"] = "arn:aws:states:::aws-sdk:ssm:getParameter"

    machine(templates, "deploy", edit)


def unguarded(templates: Templates) -> None:
    [(guard, _)] = resources(templates, "Custom::ReleaseGuard")
    [(_, endpoint)] = resources(templates, "AWS::SageMaker::Endpoint")
    endpoint["DependsOn"] = [name for name in endpoint["DependsOn"] if name != guard]


def guard_of_nothing(templates: Templates) -> None:
    first(templates, "Custom::ReleaseGuard").pop("EndpointConfig")


def forwarded(templates: Templates) -> None:
    rule = first({"edge": templates["edge"]}, "AWS::WAFv2::WebACL")["Rules"][0]
    rule["Statement"]["RateBasedStatement"]["AggregateKeyType"] = "FORWARDED_IP"


def behind_cloudfront(templates: Templates) -> None:
    first({"edge": templates["edge"]}, "AWS::WAFv2::WebACL")["Scope"] = "REGIONAL"


def no_acl(templates: Templates) -> None:
    del first(templates, "AWS::CloudFront::Distribution")["DistributionConfig"]["WebACLId"]


def open_origin(templates: Templates) -> None:
    templates["api"]["Resources"] = {
        name: item for name, item in templates["api"]["Resources"].items() if item["Type"] != "AWS::WAFv2::WebACL"
    }


def told_secret(templates: Templates) -> None:
    origin = first(templates, "AWS::CloudFront::Distribution")["DistributionConfig"]["Origins"][0]
    origin["OriginCustomHeaders"][0]["HeaderValue"] = "hunter2"


def lone_canary(templates: Templates) -> None:
    first(templates, "AWS::SageMaker::EndpointConfig")["ProductionVariants"][0]["InitialInstanceCount"] = 1


def dead_end(templates: Templates) -> None:
    machine(templates, "retrain", lambda states: states["Train"].update(Next="Nowhere"))


FAULTS: list[tuple[str, Callable[[Templates], None]]] = [
    ("instances_have_the_precision_and_the_attention", t4),
    ("instances_have_the_precision_and_the_attention", bf16_on_a_t4),
    ("gpu_endpoints_name_their_host", default_host),
    ("gpu_endpoints_name_their_host", default_host_of_a_release),
    ("image_builds_have_the_disk", small_build),
    ("prefixes_do_not_trust_an_answer", trusted_prefix),
    ("rollback_alarms_can_be_read", lambda t: forbid(t, "EndpointRole", "cloudwatch:DescribeAlarms")),
    ("rollback_alarms_can_be_read", lambda t: forbid(t, "DeployRole", "cloudwatch:DescribeAlarms")),
    ("kept_names_are_given_back", unkept_name),
    ("what_is_not_kept_can_be_deleted", full_bucket),
    ("what_is_not_kept_can_be_deleted", full_group),
    ("no_deploy_writes_the_live_model", written_parameter),
    ("approvals_are_told_from_edits", any_approval),
    ("live_is_what_the_endpoint_runs", recorded_only),
    ("deploys_ask_the_release_lock", unguarded),
    ("deploys_ask_the_release_lock", guard_of_nothing),
    ("the_rate_rule_counts_who_connects", forwarded),
    ("the_rate_rule_counts_who_connects", behind_cloudfront),
    ("the_rate_rule_counts_who_connects", no_acl),
    ("the_rate_rule_counts_who_connects", open_origin),
    ("the_rate_rule_counts_who_connects", told_secret),
    ("canaries_have_two_instances", lone_canary),
    ("state_machines_lead_somewhere", dead_end),
    ("documented_rights_come_together", lambda t: forbid(t, "RetrainRole", "sagemaker:ListTags")),
    ("documented_rights_come_together", lambda t: forbid(t, "TrainingRole", "kms:Encrypt")),
]


@pytest.mark.parametrize(("rule", "spoil"), FAULTS, ids=[getattr(spoil, "__name__", rule) for rule, spoil in FAULTS])
def test_a_rule_finds_its_fault(rated: Templates, rule: str, spoil: Callable[[Templates], None]) -> None:
    templates = copy.deepcopy(rated)
    spoil(templates)
    assert rule in broken(templates)


def test_every_rule_has_a_fault_and_a_source(rated: Templates) -> None:
    assert {rule.__name__ for rule in RULES} == {name for name, _ in FAULTS}
    templates = copy.deepcopy(rated)
    for _, spoil in FAULTS:
        spoil(templates) if spoil not in (no_acl, open_origin, behind_cloudfront) else None
    assert all(item.source.startswith("https://") and item.message and item.where for rule in RULES for item in rule(templates))


def test_the_command_ends_with_1_where_a_rule_is_broken_and_says_what_it_cannot_know(
    rated: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    spoilt = copy.deepcopy(rated)
    forwarded(spoilt)
    for name, templates, status in (("good", rated, 0), ("bad", spoilt, 1)):
        folder = tmp_path / name
        folder.mkdir()
        for stack, template in templates.items():
            (folder / f"ko-reranker-prod-{stack}.template.json").write_text(json.dumps(template))
        done = CliRunner().invoke(app, ["doctor", "--offline", "--stage", "prod", "--templates", str(folder)])
        assert done.exit_code == status, done.output
        assert "Templates can't show" in done.output and "quotas" in done.output
    assert "X-Forwarded-For" in done.output and "https://docs.aws.amazon.com/waf/" in done.output


def test_cdk_json_is_what_the_command_reads_else(monkeypatch: pytest.MonkeyPatch, rated: Templates) -> None:
    monkeypatch.chdir(ROOT)
    asked: list[Any] = []
    monkeypatch.setattr(synthesis, "synthesise", lambda project, stage, overrides: asked.append((stage, overrides)) or rated)
    assert CliRunner().invoke(app, ["doctor", "--offline"]).exit_code == 0
    assert asked == [("prod", {"serving.enabled": "true"})]
    assert CONTEXT["settings"]["prod"]
