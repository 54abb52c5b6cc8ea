"""`ko-reranker doctor` finds, before a deploy does, what would make it fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from ko_reranker.operations import checks
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

ROOT = Path(__file__).parents[2]
QUOTAS = {
    "ml.g5.12xlarge for training job usage": 0.0,
    "ml.g4dn.xlarge for processing job usage": 2.0,
    "ml.g5.xlarge for endpoint usage": 8.0,
}


@pytest.fixture
def project() -> Project:
    return Project.find(ROOT)


def look(
    monkeypatch: pytest.MonkeyPatch, project: Project, answers: Callable[[str, Stubber], None]
) -> dict[str, checks.Finding]:
    """Run the checks of prod against stubbed clients."""
    stubs: list[Stubber] = []

    def client(service: str) -> Any:
        made = boto3.client(service, region_name="ap-northeast-2", aws_access_key_id="a", aws_secret_access_key="b")
        stub = Stubber(made)
        answers(service, stub)
        stub.activate()
        stubs.append(stub)
        return made

    monkeypatch.setattr(Stage, "connect", lambda name, project: Stage(name, "ko-reranker-prod", "ap-northeast-2", client))
    monkeypatch.setattr(checks, "_base_model", lambda stage, settings: checks.Finding("ok", "base model", ""))
    return {finding.subject: finding for finding in checks.check("prod", project)}


def account(service: str, stub: Stubber, *, bootstrapped: bool = True, quotas: dict[str, float] | None = None) -> None:
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
    elif service == "cloudformation":
        for _ in range(8):
            stub.add_client_error("describe_stacks", "ValidationError", "Stack does not exist")


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
