"""The whole stack, from English records to a Korean answer, with IAM evaluated on the way."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import cohere
import pytest
from deployed_stage import Deployed

from ko_reranker.operations import executions, packages


def read(deployed: Deployed, key: str) -> Any:
    s3, bucket = deployed.stage.client("s3"), deployed.stage.output("DataBucket")
    return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())


def released_run(deployed: Deployed) -> dict[str, Any]:
    """The output of the retraining that `make run` did."""
    for execution in executions.latest(deployed.stage, "RetrainStateMachine", 50):
        output = executions.outcome(deployed.stage, execution["executionArn"]).output
        if "training" in output:
            return output
    raise AssertionError("no retraining has trained a model")


def model_prefix(output: dict[str, Any]) -> str:
    """Where what belongs to the trained model lies in the bucket."""
    return f"models/{output['request']['run']}/{output['training']['job']}"


def wait_in_service(deployed: Deployed) -> dict[str, Any]:
    sagemaker = deployed.stage.client("sagemaker")
    deadline = time.monotonic() + 400
    while True:
        found = sagemaker.describe_endpoint(EndpointName=deployed.stage.output("EndpointName"))
        if found["EndpointStatus"] == "InService" or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def test_the_run_tells_what_it_does_and_ends_with_a_ranked_answer(deployed: Deployed) -> None:
    for said in (
        "✓ Translate the shards",
        "✓ Join the translations",
        "✓ Train",
        "Train: step=",
        "The candidate is not below",
        "The known positive (→) was at rank",
        "the mini reranker",
        "curl -s http://127.0.0.1:",
    ):
        assert said in deployed.printed
    assert "✓ cdk deploy" in deployed.printed


def test_the_trained_model_is_not_below_its_base_which_ranked_korean_before(deployed: Deployed) -> None:
    metrics = read(deployed, f"{model_prefix(released_run(deployed))}/evaluation/metrics.json")
    assert metrics["queries"] >= 100
    assert metrics["rows"]["candidate"]["mrr"] > metrics["rows"]["none"]["mrr"]
    # The base knows this documentation from other records of it.
    assert metrics["differences"]["candidate-base"]["mrr"]["high"] > 0
    # Nor is the base, which has seen none of these records' questions, below no reranker, which is BM25.
    assert metrics["differences"]["base-none"]["mrr"]["high"] > 0


def test_the_released_model_is_live_and_registered(deployed: Deployed) -> None:
    output = released_run(deployed)
    live = deployed.stage.live_model()
    assert live is not None
    assert live[0] == output["package"]["arn"]
    assert live[1].endswith(f"/{output['training']['job']}/output/model/")
    registered = {package.arn: package.approval for package in packages.packages(deployed.stage)}
    assert registered[live[0]] == "Approved"
    endpoint = wait_in_service(deployed)
    assert endpoint["EndpointStatus"] == "InService"


def test_a_package_leads_to_its_figures_its_run_card_and_its_data(deployed: Deployed) -> None:
    output = released_run(deployed)
    package = deployed.stage.client("sagemaker").describe_model_package(ModelPackageName=output["package"]["arn"])
    properties = package["CustomerMetadataProperties"]
    bucket = deployed.stage.output("DataBucket")

    def linked(uri: str) -> Any:
        # Nothing that a package points to may lie where files expire.
        assert uri.startswith(f"s3://{bucket}/models/")
        return read(deployed, uri.removeprefix(f"s3://{bucket}/"))

    assert linked(package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"])["rows"]["candidate"]
    assert linked(properties["golden"])["queries"]
    manifest, card = linked(properties["manifest"]), linked(properties["run_card"])
    assert card["versions"]["torch"]
    # What was trained on came from this manifest, mined or not.
    stored = deployed.stage.client("s3").get_object(Bucket=bucket, Key=urlsplit(properties["manifest"]).path.lstrip("/"))
    assert card["dataset"]["beside"]["manifest.json"] == hashlib.sha256(stored["Body"].read()).hexdigest()
    assert manifest["sha256"].keys() == {"train", "dev"}
    assert manifest["sources"][0]["key"].startswith(f"raw/{properties['dataset']}/")
    job = deployed.stage.client("sagemaker").describe_training_job(TrainingJobName=output["training"]["job"])
    assert package["MetadataProperties"]["GeneratedBy"] == job["TrainingJobArn"]
    assert (properties["recipe"], properties["base_model"]) == ("mini", "sample:mini")


def test_two_hosts_trained_the_model_together(deployed: Deployed) -> None:
    output = released_run(deployed)
    job = deployed.stage.client("sagemaker").describe_training_job(TrainingJobName=output["training"]["job"])
    assert job["ResourceConfig"]["InstanceCount"] == 2
    card = read(deployed, f"{model_prefix(output)}/output/model/run_card.json")
    assert (card["hosts"], card["workers"]) == (2, 2)
    streams = deployed.stage.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{output['training']['job']}/algo-"
    )["logStreams"]
    assert len(streams) == 2


def test_every_record_is_in_a_split_or_in_quarantine(deployed: Deployed) -> None:
    prefix = released_run(deployed)["request"]["prefix"]
    manifest = read(deployed, f"{prefix}/dataset/manifest.json")
    plan = read(deployed, f"{prefix}/plan.json")
    counted = sum(manifest[end] for end in ("train", "dev", "rejected", "duplicates"))
    assert counted == plan["records"] + plan["rejected_records"]


def test_the_cohere_sdk_gets_its_answer_with_only_url_and_key_changed(deployed: Deployed) -> None:
    wait_in_service(deployed)
    client = cohere.ClientV2(api_key=deployed.stage.api_key, base_url=deployed.stage.api_url)
    documents = ["제주도는 화산섬이다.", "리플렉트된 메시지의 처리기를 정의합니다.", "김치는 배추로 담근다."]
    answer = client.rerank(model="any", query="리플렉트된 메시지의 메시지 처리기 정의", documents=documents, top_n=2)
    assert answer.results[0].index == 1
    assert len(answer.results) == 2


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "k" * 30}, {"Authorization": "Bearer short"}])
def test_a_call_without_a_known_key_is_401_in_the_error_shape_that_clients_read(
    deployed: Deployed, headers: dict[str, str]
) -> None:
    request = urllib.request.Request(
        f"{deployed.stage.api_url}/v2/rerank",
        data=b'{"query":"q","documents":["d"]}',
        headers={"Content-Type": "application/json", **headers},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 401
    body = json.loads(caught.value.read())
    assert body["message"] and body["detail"] and body["error"]["message"]


def test_x_api_key_does_as_well_as_bearer(deployed: Deployed) -> None:
    wait_in_service(deployed)
    request = urllib.request.Request(
        f"{deployed.stage.api_url}/v1/rerank",
        data=json.dumps({"query": "질문", "documents": ["답", "다른 글"]}).encode(),
        headers={"Content-Type": "application/json", "x-api-key": deployed.stage.api_key},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert len(json.loads(answer.read())["results"]) == 2
