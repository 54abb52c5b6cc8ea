"""The record says which model is live; the endpoint is looked at after every change, and put right where it runs another."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from deployed_stage import free_port
from stub_stage import StubStage, eventually

pytestmark = pytest.mark.slow

NEXT = "models/next/"
BROKEN = {"Type": "AWS::SageMaker::EndpointConfig", "Properties": {"ProductionVariants": [
    {"VariantName": "main", "ModelName": "nobody", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
]}}  # fmt: skip


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubStage]:
    stub = StubStage(tmp_path_factory.mktemp("running"), free_port(), free_port())
    with stub.cloud:
        stub.deploy()
        yield stub


def running(stub: StubStage) -> str:
    """The model data that the endpoint serves."""
    sagemaker = stub.cloud.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=stub.stage.prefix)["EndpointConfigName"]
    [variant] = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    model = sagemaker.describe_model(ModelName=variant["ModelName"])
    return model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]


def release(stub: StubStage) -> tuple[str, str]:
    """Register, approve and release another model; return its package and data."""
    bucket, sagemaker = stub.stage.output("DataBucket"), stub.cloud.client("sagemaker")
    stub.cloud.client("s3").put_object(Bucket=bucket, Key=f"{NEXT}model.json", Body=b'{"seed": "next"}')
    uri = f"s3://{bucket}/{NEXT}"
    source = {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
    package = sagemaker.create_model_package(
        ModelPackageGroupName=stub.stage.output("ModelPackageGroup"),
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [{"Image": "local/ko-reranker:latest", "ModelDataSource": {"S3DataSource": source}}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"golden": "none"},
    )["ModelPackageArn"]
    assert eventually(lambda: (stub.stage.live_model() or [""])[0] == package)
    return package, uri


def at_rest(stub: StubStage) -> bool:
    machine, client = stub.stage.output("DeployStateMachine"), stub.cloud.client("stepfunctions")
    return not client.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]


def failing(template: dict[str, Any]) -> dict[str, Any]:
    """Other instances, so that the endpoint is updated, and something that fails once it was."""
    template = copy.deepcopy(template)
    [config] = [r for r in template["Resources"].values() if r["Type"] == "AWS::SageMaker::EndpointConfig"]
    config["Properties"]["ProductionVariants"][0]["InstanceType"] = "ml.m5.xlarge"
    [endpoint] = [name for name, r in template["Resources"].items() if r["Type"] == "AWS::SageMaker::Endpoint"]
    template["Resources"]["Broken"] = {**BROKEN, "DependsOn": [endpoint]}
    return template


def test_a_failed_deploy_that_brings_an_older_model_back_is_told_and_healed(stub: StubStage) -> None:
    first = running(stub)
    package, uri = release(stub)
    assert eventually(lambda: at_rest(stub))
    assert running(stub) == uri != first

    assert stub.update("serving", failing(stub.templates["serving"])), "the deploy was to fail"
    assert stub.stage.live_model()[0] == package, "the record says the newer model all the while"
    assert eventually(lambda: at_rest(stub) and running(stub) == uri, 60), f"the endpoint still runs {running(stub)}"
    assert stub.stage.live_model()[0] == package
    assert eventually(lambda: "is put back" in stub.received(), 5), "nobody was told"
    # Nothing is left that would keep the next one from being healed.
    items = stub.cloud.client("dynamodb").scan(TableName=stub.stage.output("ReleasesTable"))["Items"]
    assert not [item for item in items if item["id"]["S"].startswith("drift")]


def test_a_release_of_the_recorded_model_compares_with_what_runs_and_not_with_the_record(stub: StubStage) -> None:
    """A person's way, and one that needs no event: the endpoint is put onto another model while nobody hears of it."""
    package, uri = stub.stage.live_model()[:2]
    events, sagemaker = stub.cloud.client("events"), stub.cloud.client("sagemaker")
    rules = [rule["Name"] for rule in events.list_rules()["Rules"] if "EndpointChanged" in rule["Name"]]
    for rule in rules:
        events.disable_rule(Name=rule)
    try:
        outputs = [config["EndpointConfigName"] for config in sagemaker.list_endpoint_configs()["EndpointConfigs"]]
        other = next(name for name in outputs if "EndpointConfig" in name)  # CloudFormation's own, with the first model
        sagemaker.update_endpoint(EndpointName=stub.stage.prefix, EndpointConfigName=other)
        endpoint = lambda: sagemaker.describe_endpoint(EndpointName=stub.stage.prefix)  # noqa: E731
        assert eventually(lambda: endpoint()["EndpointStatus"] == "InService")
        assert running(stub) != uri
        client = stub.cloud.client("stepfunctions")
        execution = client.start_execution(
            stateMachineArn=stub.stage.output("DeployStateMachine"), input=json.dumps({"model_package": package})
        )
        assert stub.outcome(execution["executionArn"]).succeeded
        assert running(stub) == uri
    finally:
        for rule in rules:
            events.enable_rule(Name=rule)
