"""A release either makes the approved model live or leaves everything as it was, and says which."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deployed_stage import PROJECT, Deployed
from test_whole_run import model_prefix, read, released_run, wait_in_service

from ko_reranker.operations import asking, executions, packages
from ko_reranker.operations.executions import Outcome
from local_cloud import deploying


@pytest.fixture
def trained(deployed: Deployed) -> Iterator[str]:
    """The trained model's package, live before the test and live again after it."""
    wait_in_service(deployed)
    package = released_run(deployed)["package"]["arn"]
    yield package
    if deployed.stage.live_model()[0] != package:
        assert deploy(deployed, package).succeeded


def deploy(deployed: Deployed, package: str) -> Outcome:
    arn = executions.start(deployed.stage, "DeployStateMachine", {"model_package": package})
    return finish(deployed, arn)


def finish(deployed: Deployed, arn: str) -> Outcome:
    for _ in executions.follow(deployed.stage, arn, poll_seconds=0.3):
        pass
    return executions.outcome(deployed.stage, arn)


def configuration(deployed: Deployed) -> str:
    return wait_in_service(deployed)["EndpointConfigName"]


def package_with(deployed: Deployed, *, data: str, golden: str) -> str:
    """Register an approved package without the approval event's deploy getting in the way: approve it by hand-made ARN."""
    container = {
        "Image": deployed.stage.output("ImageUri"),
        "ModelDataSource": {"S3DataSource": {"S3Uri": data, "S3DataType": "S3Prefix", "CompressionType": "None"}},
    }
    answer = deployed.stage.client("sagemaker").create_model_package(
        ModelPackageGroupName=deployed.stage.output("ModelPackageGroup"),
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"golden": golden},
    )
    return answer["ModelPackageArn"]


def release_of(deployed: Deployed, package: str, seconds: float = 400) -> dict[str, Any]:
    """Wait until the deploy that a package's approval started has written down how it went."""
    table = deployed.stage.output("ReleasesTable")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        item = deployed.stage.client("dynamodb").get_item(TableName=table, Key={"id": {"S": package}}).get("Item")
        if item:
            return {key: value["S"] for key, value in item.items()}
        time.sleep(0.3)
    raise AssertionError(f"no release of {package} within {seconds} s")


def answer(deployed: Deployed) -> Any:
    documents = ["리플렉트된 메시지의 처리기를 정의합니다.", "제주도는 화산섬이다."]
    return asking.rerank(deployed.stage.api_url, deployed.stage.api_key, "메시지 처리기 정의", documents)


def test_a_pending_package_goes_live_when_somebody_approves_it_and_the_old_one_comes_back(
    deployed: Deployed, trained: str
) -> None:
    before, answered = configuration(deployed), answer(deployed)
    pending = packages.register(deployed.stage, "sample:tiny", approve=False)
    refused = deploy(deployed, pending)
    assert refused.status == "FAILED"
    assert "only an approved one is deployed" in refused.cause
    assert configuration(deployed) == before

    # Its refusal was written down; what counts now is the next one.
    deployed.stage.client("dynamodb").delete_item(TableName=deployed.stage.output("ReleasesTable"), Key={"id": {"S": pending}})
    packages.approve(deployed.stage, pending)
    assert release_of(deployed, pending)["status"] == "live"
    assert deployed.stage.live_model()[0] == pending
    assert configuration(deployed) != before
    assert answer(deployed) != answered

    back, execution = packages.rollback(deployed.stage)
    assert back == trained
    assert finish(deployed, execution).succeeded
    assert deployed.stage.live_model()[0] == trained
    assert answer(deployed) == answered


def test_a_model_that_answers_other_than_in_its_evaluation_is_taken_back(deployed: Deployed, trained: str) -> None:
    before = configuration(deployed)
    output = released_run(deployed)
    golden = read(deployed, f"{model_prefix(output)}/evaluation/golden.json")
    for query in golden["queries"]:
        query["scores"] = [1 - score for score in query["scores"]]
    bucket = deployed.stage.output("DataBucket")
    deployed.stage.client("s3").put_object(
        Bucket=bucket, Key="models/forged/evaluation/golden.json", Body=json.dumps(golden).encode()
    )
    package = package_with(
        deployed, data=output["training"]["model_data"], golden=f"s3://{bucket}/models/forged/evaluation/golden.json"
    )
    release = release_of(deployed, package)
    assert release["status"] == "failed"
    assert "does not serve the model that was asked for" in release["reason"]
    assert configuration(deployed) == before
    assert deployed.stage.live_model()[0] == trained


def test_a_model_that_does_not_start_never_replaces_the_one_that_answers(deployed: Deployed, trained: str) -> None:
    before = configuration(deployed)
    bucket = deployed.stage.output("DataBucket")
    deployed.stage.client("s3").put_object(Bucket=bucket, Key="models/broken/config.json", Body=b"{}")
    package = package_with(deployed, data=f"s3://{bucket}/models/broken/", golden="none")
    release = release_of(deployed, package)
    assert release["status"] == "failed"
    assert "serves the old one" in release["reason"]
    assert "ping" in release["reason"]
    assert configuration(deployed) == before
    assert deployed.stage.live_model()[0] == trained


def test_a_lock_that_an_ended_release_left_behind_is_taken_over(deployed: Deployed, trained: str) -> None:
    table, dynamodb = deployed.stage.output("ReleasesTable"), deployed.stage.client("dynamodb")
    ended = executions.latest(deployed.stage, "DeployStateMachine", 1)[0]["executionArn"]
    dynamodb.put_item(TableName=table, Item={"id": {"S": "lock"}, "execution": {"S": ended}})
    assert deploy(deployed, trained).succeeded
    assert "Item" not in dynamodb.get_item(TableName=table, Key={"id": {"S": "lock"}})


def test_the_next_cdk_deploy_keeps_the_live_model_on_the_instances_that_it_changes(deployed: Deployed, trained: str) -> None:
    live, answered = deployed.stage.live_model(), answer(deployed)
    settings = {"serving.instance_type": "ml.m5.xlarge"}
    deploying.deploy(PROJECT, deployed.cloud, stage="local", settings=settings, stacks=("*-serving",))

    sagemaker = deployed.stage.client("sagemaker")
    [variant] = sagemaker.describe_endpoint_config(EndpointConfigName=configuration(deployed))["ProductionVariants"]
    assert variant["InstanceType"] == "ml.m5.xlarge"
    model = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]["ModelDataSource"]
    assert model["S3DataSource"]["S3Uri"] == live[1]
    assert deployed.stage.live_model() == live
    assert live[0] == trained
    assert answer(deployed) == answered
