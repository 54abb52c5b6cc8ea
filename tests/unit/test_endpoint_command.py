"""`ko-reranker endpoint`: starts what takes the endpoint away and brings it back, and tells how it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.operations import endpoint
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

ROOT = Path(__file__).parents[2]
NAME, REGION, PARAMETER = "ko-reranker-dev", "ap-northeast-2", "/ko-reranker/dev/live-model"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.chdir(ROOT)
    with mock_aws():
        boto3.client("ssm").put_parameter(Name=PARAMETER, Value="arn:p/7,s3://b/models/m/,image", Type="StringList")
        machine = boto3.client("stepfunctions").create_state_machine(
            name=f"{NAME}-deploy", definition="{}", roleArn="arn:aws:iam::123456789012:role/deploy"
        )["stateMachineArn"]
        outputs = {"EndpointName": NAME, "DeployStateMachine": machine, "LiveModelParameter": PARAMETER}
        stage = Stage("dev", NAME, REGION, boto3.client, _outputs=outputs)
        monkeypatch.setattr(Stage, "connect", lambda name, project: stage)
        yield stage


def make_endpoint() -> None:
    sagemaker = boto3.client("sagemaker")
    role = "arn:aws:iam::123456789012:role/endpoint"
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"VariantName": "main", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName="c")


def started(stage: Stage) -> list[dict[str, str]]:
    client = boto3.client("stepfunctions")
    found = client.list_executions(stateMachineArn=stage.output("DeployStateMachine"))["executions"]
    return [json.loads(client.describe_execution(executionArn=item["executionArn"])["input"]) for item in found]


def test_an_endpoint_is_there_or_away_or_not_asked_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(endpoint.look(stage)) == f"{NAME}  away: `ko-reranker endpoint on` brings it back"
    make_endpoint()
    standing = endpoint.look(stage)
    assert (standing.name, standing.status) == (NAME, "InService")
    assert str(standing).startswith(f"{NAME}  InService  since 20")
    monkeypatch.setattr(stage, "output", lambda key: "none")
    assert str(endpoint.look(stage)) == "none (serving.enabled is false)"


@pytest.mark.parametrize("to", ["on", "off"])
def test_switching_starts_the_deploy_state_machine(stage: Stage, to: str) -> None:
    done = CliRunner().invoke(app, ["endpoint", to, "--stage", "dev", "--no-follow"])
    assert done.exit_code == 0, done.output
    assert started(stage) == [{"endpoint": to}]


def test_prod_asks_before_its_callers_are_turned_away(stage: Stage) -> None:
    stage.name = "prod"
    refused = CliRunner().invoke(app, ["endpoint", "off", "--stage", "prod", "--no-follow"], input="n\n")
    assert refused.exit_code == 1 and "Callers of prod get 429" in refused.output
    assert not started(stage)
    assert CliRunner().invoke(app, ["endpoint", "off", "--stage", "prod", "--no-follow", "--yes"]).exit_code == 0
    assert started(stage) == [{"endpoint": "off"}]


def test_a_stage_without_an_endpoint_has_none_to_switch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "output", lambda key: "none")
    with pytest.raises(OperationError, match=r"set serving\.enabled, and deploy"):
        endpoint.switch(stage, "off")


def test_the_status_says_what_takes_it_away_and_what_brings_it_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    endpoint.switch(stage, "on")
    done = CliRunner().invoke(app, ["endpoint", "status", "--stage", "dev"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["Endpoint", "Live model", "By clock", "At request", "Under way"]
    assert "away" in lines[0] and "arn:p/7  s3://b/models/m/" in lines[1]
    assert "never (schedule.endpoint)" in lines[2] and "stays away (serving.wake_on_request)" in lines[3]
