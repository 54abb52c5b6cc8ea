"""`ko-reranker doctor` finds, before a deploy does, what would make it fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from ko_reranker.operations import checks, synthesis
from ko_reranker.operations.called import called_services
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

ROOT = Path(__file__).parents[2]
TOPIC = "arn:aws:sns:ap-northeast-2:111122223333:ko-reranker-prod"
QUOTAS = {
    "ml.g5.12xlarge for training job usage": 0.0,
    "ml.g5.xlarge for processing job usage": 2.0,
    "ml.g5.xlarge for endpoint usage": 8.0,
}

VALID = {"result": "OK", "diagnostics": []}
INVALID = {
    "result": "FAIL",
    "diagnostics": [
        {"severity": "ERROR", "code": "MISSING_TRANSITION_TARGET", "message": "no Nowhere", "location": "/States/A"}
    ],
}
TEMPLATES = {
    stack: {
        "Resources": {
            "Machine": {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {
                    "StateMachineName": f"ko-reranker-prod-{name}",
                    "DefinitionString": {
                        "Fn::Join": ["", ['{"StartAt":"A","States":{"A":{"Type":"', "Pass", '","End":true}}}']]
                    },
                },
            }
        }
    }
    for stack, name in (("pipeline", "retrain"), ("serving", "deploy"))
}


@pytest.fixture
def project() -> Project:
    return Project.find(ROOT)


def look(
    monkeypatch: pytest.MonkeyPatch, project: Project, answers: Callable[[str, Stubber], None], *, valid: bool = True
) -> dict[str, checks.Finding]:
    """Run the checks of prod against stubbed clients."""
    stubs: list[Stubber] = []

    def client(service: str, region_name: str = "ap-northeast-2") -> Any:
        made = boto3.client(service, region_name="ap-northeast-2", aws_access_key_id="a", aws_secret_access_key="b")
        stub = Stubber(made)
        answers(service, stub)
        if service == "stepfunctions":
            stub.add_response("validate_state_machine_definition", VALID if valid else INVALID)
        stub.activate()
        stubs.append(stub)
        return made

    monkeypatch.setattr(Stage, "connect", lambda name, project: Stage(name, "ko-reranker-prod", "ap-northeast-2", client))

    def synthesise(project: Project, stage: str, overrides: dict[str, str]) -> Any:
        assert overrides == {"serving.enabled": "true"}, "without the endpoint the deploy's machine only records a model"
        return TEMPLATES

    monkeypatch.setattr(synthesis, "synthesise", synthesise)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    return {finding.subject: finding for finding in checks.check("prod", project)}


def account(
    service: str,
    stub: Stubber,
    *,
    bootstrapped: bool = True,
    quotas: dict[str, float] | None = None,
    concurrency: int = 1000,
    subscriptions: list[dict[str, str]] | None = None,
) -> None:
    """Answer for an account: one that nothing was deployed into, but where a list of subscriptions is given."""
    if service == "sts":
        who = {"Account": "111122223333", "Arn": "arn:aws:iam::111122223333:user/dev", "UserId": "u"}
        stub.add_response("get_caller_identity", who)
    elif service == "ssm":
        if bootstrapped:
            stub.add_response("get_parameter", {"Parameter": {"Name": "v", "Value": "30"}}, {"Name": ANY})
        else:
            stub.add_client_error("get_parameter", "ParameterNotFound")
    elif service == "service-quotas":
        found = [
            {"QuotaName": name, "QuotaCode": f"L-{n}", "Value": value}
            for n, (name, value) in enumerate((QUOTAS if quotas is None else quotas).items())
        ]
        stub.add_response("list_service_quotas", {"Quotas": found}, {"ServiceCode": "sagemaker"})
    elif service == "lambda":
        stub.add_response("get_account_settings", {"AccountLimit": {"ConcurrentExecutions": concurrency}})
    elif service == "cloudformation":
        deployed = {
            "StackName": "s",
            "CreationTime": datetime.now(UTC),
            "StackStatus": "CREATE_COMPLETE",
            "Outputs": [{"OutputKey": "TopicArn", "OutputValue": TOPIC}],
        }
        for _ in range(20):
            if subscriptions is None:
                stub.add_client_error("describe_stacks", "ValidationError", "Stack does not exist")
            else:
                stub.add_response("describe_stacks", {"Stacks": [deployed]})
    elif service == "sns":
        stub.add_response("list_subscriptions_by_topic", {"Subscriptions": subscriptions}, {"TopicArn": TOPIC})


def test_a_gpu_quota_of_zero_is_an_error_with_the_command_that_asks_for_more(
    monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    found = look(monkeypatch, project, account)
    training = found["ml.g5.12xlarge for training job usage"]
    assert training.level == "error"
    assert "request-service-quota-increase" in training.message
    assert "--quota-code L-0" in training.message
    assert found["ml.g5.xlarge for endpoint usage"].level == "ok"


def test_a_region_that_is_not_bootstrapped_is_an_error_with_the_command(
    monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    found = look(monkeypatch, project, lambda service, stub: account(service, stub, bootstrapped=False))
    assert found["bootstrap"].level == "error"
    assert "cdk bootstrap aws://111122223333/ap-northeast-2" in found["bootstrap"].message


def test_an_instance_type_without_a_quota_is_a_warning(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    found = look(monkeypatch, project, lambda service, stub: account(service, stub, quotas={}))
    assert found["ml.g5.12xlarge for training job usage"].level == "warning"


def test_no_credentials_end_the_checks_with_what_to_do(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    findings = list(checks.check("prod", project))
    assert findings[-1].level == "error"
    assert "aws configure" in findings[-1].message


def test_serving_without_a_model_is_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    context = json.loads(json.dumps(project.context))
    context["settings"]["prod"]["serving"]["enabled"] = True
    found = look(monkeypatch, Project(project.root, context), account)
    assert found["live model"].level == "error"
    assert "models register" in found["live model"].message


def test_wrong_settings_are_told_before_any_call(project: Project) -> None:
    context = json.loads(json.dumps(project.context))
    context["settings"]["prod"]["training"] = {"instance_type": "big"}
    findings = list(checks.check("prod", Project(project.root, context)))
    assert findings[-1].subject == "settings"
    assert "training.instance_type" in findings[-1].message


def test_the_endpoint_needs_twice_its_instances_while_it_is_updated(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    name = "ml.g5.xlarge for endpoint usage"
    short = look(monkeypatch, project, lambda service, stub: account(service, stub, quotas={**QUOTAS, name: 7.0}))
    assert short[name].level == "error" and "--desired-value 8" in short[name].message


def test_a_new_accounts_ten_functions_at_a_time_are_too_few(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    found = look(monkeypatch, project, lambda service, stub: account(service, stub, concurrency=10))
    assert found["Lambda concurrency"].level == "error"
    assert "L-B99A9384" in found["Lambda concurrency"].message
    assert look(monkeypatch, project, account)["Lambda concurrency"].level == "ok"


def test_step_functions_checks_both_definitions(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    found = look(monkeypatch, project, account)
    assert [found[f"state machine {name}"].level for name in ("retrain", "deploy")] == ["ok", "ok"]
    found = look(monkeypatch, project, account, valid=False)
    assert found["state machine deploy"].level == "error"
    assert "/States/A no Nowhere" in found["state machine deploy"].message


def test_a_rate_rule_at_cloudfront_needs_both_regions_bootstrapped(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    context = json.loads(json.dumps(project.context))
    context["settings"]["prod"]["api"] = {"waf_requests_per_5_minutes": 2000}
    missing = lambda service, stub: account(service, stub, bootstrapped=False)  # noqa: E731
    found = look(monkeypatch, Project(project.root, context), missing)
    assert "aws://111122223333/us-east-1" in found["bootstrap of us-east-1"].message
    assert "bootstrap of us-east-1" not in look(monkeypatch, project, account)


def with_settings(project: Project, **sections: Any) -> Project:
    """The project with other settings in prod."""
    context = json.loads(json.dumps(project.context))
    context["settings"]["prod"].update(sections)
    return Project(project.root, context)


def test_a_bootstrap_of_ones_own_is_looked_for_by_its_qualifier(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    own = with_settings(project, identity={"bootstrap_qualifier": "team1"})
    found = look(monkeypatch, own, lambda service, stub: account(service, stub, bootstrapped=False))
    assert "cdk bootstrap --qualifier team1 aws://111122223333/ap-northeast-2" in found["bootstrap"].message


def test_a_permissions_boundary_has_to_be_there(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    arn = "arn:aws:iam::111122223333:policy/boundary"
    own = with_settings(project, identity={"permissions_boundary": arn})
    for there, level in ((True, "ok"), (False, "error")):

        def answers(service: str, stub: Stubber, there: bool = there) -> None:
            if service == "iam" and there:
                stub.add_response("get_policy", {"Policy": {"Arn": arn}}, {"PolicyArn": arn})
            elif service == "iam":
                stub.add_client_error("get_policy", "NoSuchEntity")
            else:
                account(service, stub)

        assert look(monkeypatch, own, answers)["permissions boundary"].level == level


@pytest.mark.parametrize(
    ("enabled", "users", "level", "words"),
    [
        (True, "events.amazonaws.com cloudwatch.amazonaws.com", "ok", ":key/1111"),
        (True, "events.amazonaws.com", "warning", "doesn't name cloudwatch.amazonaws.com (alarms):"),
        (False, "events.amazonaws.com cloudwatch.amazonaws.com", "error", "is Disabled"),
    ],
)
def test_a_key_of_ones_own_has_to_be_usable_by_all_that_use_it(
    monkeypatch: pytest.MonkeyPatch, project: Project, enabled: bool, users: str, level: str, words: str
) -> None:
    arn = "arn:aws:kms:ap-northeast-2:111122223333:key/11111111-2222-3333-4444-555555555555"
    kind = {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "KeyId": "1"}
    state = {"Enabled": enabled, "KeyState": "Enabled" if enabled else "Disabled"}

    def answers(service: str, stub: Stubber) -> None:
        if service == "kms":
            stub.add_response("describe_key", {"KeyMetadata": {**kind, **state}}, {"KeyId": arn})
            stub.add_response("get_key_policy", {"Policy": users}, {"KeyId": arn, "PolicyName": "default"})
        else:
            account(service, stub)

    found = look(monkeypatch, with_settings(project, data={"key_arn": arn}), answers)["data key"]
    assert (found.level, words in found.message) == (level, True), found


CALLED = sorted(called_services())


@pytest.mark.parametrize(
    ("there", "make", "vpc", "level", "words"),
    [
        ([], True, "vpc-0a", "ok", "vpc-0a, in a, b"),
        (CALLED, False, "vpc-0a", "ok", "vpc-0a"),
        (CALLED[1:], False, "vpc-0a", "error", f"nor an endpoint of {CALLED[0]}"),
        (CALLED[:1], True, "vpc-0a", "error", f"has endpoints of {CALLED[0]} already"),
        ([], True, "vpc-0b", "error", "are not in vpc-0a"),
    ],
)
def test_an_existing_vpc_has_to_have_what_is_called_and_once(
    monkeypatch: pytest.MonkeyPatch, project: Project, there: list[str], make: bool, vpc: str, level: str, words: str
) -> None:
    network = {
        "vpc": "existing",
        "vpc_id": "vpc-0a",
        "subnet_ids": ["subnet-0a", "subnet-0b"],
        "route_table_ids": ["rtb-0a"],
        "make_endpoints": make,
    }

    def answers(service: str, stub: Stubber) -> None:
        if service == "ec2":
            zones = {"subnet-0a": "a", "subnet-0b": "b"}
            subnets = [{"SubnetId": name, "VpcId": vpc, "AvailabilityZone": zone} for name, zone in zones.items()]
            endpoints = [{"ServiceName": f"com.amazonaws.ap-northeast-2.{name}", "Tags": []} for name in there]
            stub.add_response("describe_subnets", {"Subnets": subnets})
            stub.add_response("describe_vpc_endpoints", {"VpcEndpoints": endpoints})
        else:
            account(service, stub)

    own = with_settings(project, network=network, training={"base_model": "s3://b/m/"})
    found = look(monkeypatch, own, answers)["network"]
    assert (found.level, words in found.message) == (level, True), found


def mail(confirmed: bool) -> dict[str, str]:
    arn = f"{TOPIC}:1" if confirmed else "PendingConfirmation"
    return {"SubscriptionArn": arn, "Owner": "111122223333", "Protocol": "email", "Endpoint": "ops@example.com"}


@pytest.mark.parametrize(
    ("subscriptions", "level", "words"),
    [
        (None, "warning", "set alerts.email"),
        ([], "warning", f"subscribe to {TOPIC}"),
        ([mail(confirmed=False)], "warning", "ops@example.com has not confirmed"),
        ([mail(confirmed=True)], "ok", "ops@example.com"),
    ],
)
def test_alarms_that_nobody_hears_of_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    project: Project,
    subscriptions: list[dict[str, str]] | None,
    level: str,
    words: str,
) -> None:
    found = look(monkeypatch, project, lambda service, stub: account(service, stub, subscriptions=subscriptions))
    assert (found["alarms"].level, words in found["alarms"].message) == (level, True), found["alarms"]


def test_an_address_in_the_settings_is_asked_by_the_first_deploy(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    context = json.loads(json.dumps(project.context))
    context["settings"]["prod"]["alerts"] = {"email": "ops@example.com"}
    found = look(monkeypatch, Project(project.root, context), account)
    assert found["alarms"].level == "ok"
