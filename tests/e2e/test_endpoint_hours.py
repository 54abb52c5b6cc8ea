"""The endpoint is taken away and comes back with the live model; what callers, releases and deploys meet meanwhile."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from deployed_stage import free_port
from stub_stage import StubStage, eventually
from test_running_model import at_rest, release, running

from ko_reranker.operations import destroying, executions, packages

pytestmark = pytest.mark.slow

HOURS = [
    {"at": "cron(0 20 * * ? *)", "min_instances": 1, "max_instances": 1},
    {"at": "cron(0 9 * * ? *)", "min_instances": 1, "max_instances": 2},
]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubStage]:
    settings = {"schedule.capacity": json.dumps(HOURS), "serving.wake_on_request": "true", "serving.wake_seconds": "30"}
    stub = StubStage(tmp_path_factory.mktemp("hours"), free_port(), free_port(), settings)
    with stub.cloud:
        stub.deploy()
        # The local cloud evaluates no alarm with a labelled metric: this one is the stack's in name alone.
        stub.cloud.client("cloudwatch").put_metric_alarm(
            AlarmName=f"{stub.stage.prefix}-endpoint-silent",
            Namespace="/aws/sagemaker/Endpoints",
            MetricName="CPUUtilization",
            Statistic="SampleCount",
            Period=300,
            EvaluationPeriods=2,
            Threshold=1,
            ComparisonOperator="LessThanThreshold",
        )
        yield stub


def scaling(stub: StubStage) -> dict[str, Any]:
    """What autoscaling knows of the endpoint, without what tells one registration from another."""
    client, prefix = stub.cloud.client("application-autoscaling"), stub.stage.prefix
    found: dict[str, Any] = {}
    for name, member in (
        ("scalable_targets", "ScalableTargets"),
        ("scaling_policies", "ScalingPolicies"),
        ("scheduled_actions", "ScheduledActions"),
    ):
        items = getattr(client, f"describe_{name}")(ServiceNamespace="sagemaker")[member]
        assert all(f"endpoint/{prefix}/" in item["ResourceId"] for item in items)
        found[member] = [{k: value for k, value in item.items() if k not in ("CreationTime", "RoleARN")} for item in items]
    return found


def listens(stub: StubStage) -> bool:
    name = f"{stub.stage.prefix}-endpoint-silent"
    [alarm] = stub.cloud.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    return alarm["ActionsEnabled"]


def test_an_endpoint_that_could_not_come_back_is_not_taken_away(stub: StubStage) -> None:
    """Its model was chosen by hand, as the first one is in these tests: nothing is registered."""
    off = stub.switch("off")
    assert "No model package is recorded as live" in off.cause
    assert stub.is_there()


def test_off_takes_the_endpoint_away_and_on_brings_it_back_as_it_was(stub: StubStage) -> None:
    release(stub)
    assert eventually(lambda: at_rest(stub))
    model, live, scaled = running(stub), stub.stage.live_model(), scaling(stub)
    assert all(scaled.values()) and listens(stub)

    off = stub.switch("off")
    assert off.succeeded, off.cause
    assert not stub.is_there() and not listens(stub)
    assert not any(scaling(stub).values())
    again = stub.switch("off")
    assert again.succeeded, again.cause

    on = stub.switch("on")
    assert on.succeeded, on.cause
    assert running(stub) == model and stub.stage.live_model() == live
    assert scaling(stub) == scaled and listens(stub)
    assert not stub.ask()
    again = stub.switch("on")
    assert again.succeeded, again.cause
    assert eventually(lambda: at_rest(stub))


def test_callers_are_told_when_to_come_again_and_the_first_brings_the_endpoint_back(stub: StubStage) -> None:
    scores = stub.post().json()["results"]
    assert stub.switch("off").succeeded
    answer = stub.post()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
    assert "was switched off and is starting" in answer.json()["message"]
    assert eventually(lambda: stub.post().status_code == 200)
    assert stub.post().json()["results"] == scores
    assert eventually(lambda: at_rest(stub))
    wakes = [item["name"] for item in executions.latest(stub.stage, "DeployStateMachine", 20)]
    assert len([name for name in wakes if name.startswith("request-")]) == 1


def package(stub: StubStage, seed: str, golden: str = "none", *, file: str = "model.json") -> str:
    """Register a model and approve it, which releases it; return its package."""
    bucket, sagemaker = stub.stage.output("DataBucket"), stub.cloud.client("sagemaker")
    body = json.dumps({"seed": seed}).encode()
    stub.cloud.client("s3").put_object(Bucket=bucket, Key=f"models/{seed}/{file}", Body=body)
    source = {"S3Uri": f"s3://{bucket}/models/{seed}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    arn = sagemaker.create_model_package(
        ModelPackageGroupName=stub.stage.output("ModelPackageGroup"),
        ModelApprovalStatus="PendingManualApproval",
        InferenceSpecification={
            "Containers": [{"Image": "local/ko-reranker:latest", "ModelDataSource": {"S3DataSource": source}}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"golden": golden},
    )["ModelPackageArn"]
    packages.approve(stub.stage, arn)
    return arn


def released(stub: StubStage, arn: str) -> dict[str, Any]:
    """The record of a release that has ended, with the endpoint as it leaves it."""
    table, dynamodb = stub.stage.output("ReleasesTable"), stub.cloud.client("dynamodb")
    item = eventually(lambda: dynamodb.get_item(TableName=table, Key={"id": {"S": arn}}).get("Item"))
    assert item and eventually(lambda: at_rest(stub))
    return {key: value["S"] for key, value in item.items()}


def test_a_release_while_it_is_away_is_tested_recorded_and_what_comes_back(stub: StubStage) -> None:
    assert stub.switch("off").succeeded
    arn = package(stub, "night")
    assert released(stub, arn)["status"] == "live"
    assert not stub.is_there() and not listens(stub), "it is away again"
    assert stub.stage.live_model()[0] == arn
    # The look after every change had nothing to look at, and failed at nothing.
    assert {item["status"] for item in executions.latest(stub.stage, "DeployStateMachine", 3)} == {"SUCCEEDED"}
    assert stub.switch("on").succeeded
    assert running(stub) == stub.stage.live_model()[1]
    assert eventually(lambda: at_rest(stub))


def test_a_bad_model_that_is_released_while_it_is_away_changes_nothing(stub: StubStage) -> None:
    assert stub.switch("off").succeeded
    live, bucket = stub.stage.live_model(), stub.stage.output("DataBucket")
    golden = {"query": "질문", "documents": ["답", "글"], "positive": 0, "scores": [2.0, 2.0], "base_scores": [0, 0]}
    key = "models/odd/evaluation/golden.json"
    stub.cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=json.dumps({"queries": [golden]}).encode())
    failed = released(stub, package(stub, "odd", f"s3://{bucket}/{key}"))
    assert failed["status"] == "failed"
    assert eventually(lambda: not stub.is_there())
    failed = released(stub, package(stub, "broken", file="something.json"))
    assert "did not come into service" in failed["reason"]
    assert eventually(lambda: not stub.is_there())
    assert stub.stage.live_model() == live
    assert stub.switch("on").succeeded
    assert running(stub) == live[1]
    assert eventually(lambda: at_rest(stub))


def test_one_that_does_not_start_is_told_of_and_the_next_attempt_finds_its_name_free(stub: StubStage) -> None:
    s3, bucket = stub.cloud.client("s3"), stub.stage.output("DataBucket")
    folder = stub.stage.live_model()[1].removeprefix(f"s3://{bucket}/")
    key = f"{folder}model.json"
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=f"{folder}something.json", Body=b"{}")
    assert stub.switch("off").succeeded
    s3.delete_object(Bucket=bucket, Key=key)
    on = stub.switch("on")
    assert on.status == "FAILED" and "did not come into service" in on.cause
    assert eventually(lambda: "FAILED" in stub.received(), 5), "nobody was told"
    assert eventually(lambda: not stub.is_there())
    s3.put_object(Bucket=bucket, Key=key, Body=body)
    on = stub.switch("on")
    assert on.succeeded, on.cause
    assert eventually(lambda: at_rest(stub))


def test_a_deploy_that_would_change_what_is_away_is_refused_and_any_other_passes(stub: StubStage) -> None:
    template = stub.templates["serving"]
    larger, wider, other = copy.deepcopy(template), copy.deepcopy(template), copy.deepcopy(template)
    other["Resources"]["Another"] = {"Type": "AWS::SNS::Topic"}
    # The first deploy after a release makes the stack's own configuration anew, with the released model.
    assert not stub.update("serving", other)
    assert eventually(lambda: at_rest(stub))
    assert stub.switch("off").succeeded
    [config] = [r for r in larger["Resources"].values() if r["Type"] == "AWS::SageMaker::EndpointConfig"]
    config["Properties"]["ProductionVariants"][0]["InstanceType"] = "ml.m5.xlarge"
    for resource in wider["Resources"].values():
        if resource["Type"] == "AWS::ApplicationAutoScaling::ScalableTarget":
            resource["Properties"]["MaxCapacity"] = 7
        if resource["Type"] == "Custom::ReleaseGuard":
            resource["Properties"]["Bounds"]["Max"] = 7
    for refused in (larger, wider):
        assert "bring it back (`ko-reranker endpoint on`), then deploy again" in stub.update("serving", refused)
    assert not stub.update("serving", template)
    assert not stub.is_there()
    assert stub.switch("on").succeeded
    assert eventually(lambda: at_rest(stub))
    assert not stub.update("serving", wider)
    assert scaling(stub)["ScalableTargets"][0]["MaxCapacity"] == 7
    assert not stub.update("serving", template)


def test_a_stage_whose_endpoint_is_away_can_be_taken_away(stub: StubStage) -> None:
    assert stub.switch("off").succeeded
    destroying.destroy(destroying.plan(stub.stage))
    assert list(destroying.left_over(stub.stage)) == []
