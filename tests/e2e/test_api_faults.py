"""Faults behind the deployed rerank function: clients get the promised status, and the endpoint is asked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from deployed_stage import Deployed

from ko_reranker.operations.stage import Stage
from tests.unit.sagemaker_server import SageMakerServer

BODY = {"query": "서울의 인구는?", "documents": ["부산은 항구다.", "서울의 인구는 940만 명이다."]}
REFUSAL = json.dumps({"message": "query: is too long", "error": {"param": "query"}, "error_type": "validation"})


Fault = Callable[[SageMakerServer], None]


@pytest.fixture(scope="module")
def sagemaker(deployed: Deployed) -> Iterator[SageMakerServer]:
    """A server that the deployed function takes for SageMaker's runtime API."""
    functions, name = deployed.stage.client("lambda"), rerank_function(deployed.stage)
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

    def configure(**more: str) -> None:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables | more})
        functions.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})

    with SageMakerServer() as server:
        configure(AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=server.url)
        yield server
        configure()


def rerank_function(stage: Stage) -> str:
    resources = stage.client("cloudformation").list_stack_resources(StackName=f"{stage.prefix}-api")
    [name] = [
        item["PhysicalResourceId"]
        for item in resources["StackResourceSummaries"]
        if item["ResourceType"] == "AWS::Lambda::Function" and item["LogicalResourceId"].startswith("Rerank")
    ]
    return name


def ask(stage: Stage) -> httpx.Response:
    return httpx.post(f"{stage.api_url}/v2/rerank", json=BODY, headers={"api-key": stage.api_key}, timeout=60)


def check(answer: httpx.Response, status: int, retry_after: str | None) -> None:
    said = answer.json()
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after), answer.text
    assert said["message"] == said["detail"] == said["error"]["message"]
    assert said["error"]["code"] == status and said["error_type"]


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        (lambda server: server.fails("ThrottlingException"), 429, "1"),
        (lambda server: server.fails("ModelNotReadyException", status=429), 429, "30"),
        (lambda server: server.fails("ValidationError", "Endpoint ko-reranker-local not found."), 429, "60"),
        (lambda server: server.fails("ModelError", status=424, OriginalStatusCode=429), 429, "1"),
        (lambda server: server.fails("ModelError", status=424, OriginalStatusCode=422, OriginalMessage=REFUSAL), 422, None),
        (lambda server: server.fails("ModelError", status=424, OriginalStatusCode=500), 500, None),
        (lambda server: server.fails("ServiceUnavailable", status=503), 503, None),
        (lambda server: server.cuts_off(), 503, None),
        (lambda server: server.cuts_off(after=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), 503, None),
        (lambda server: server.cuts_off(abruptly=True), 503, None),
    ],
    ids=["throttled", "not ready", "switched off", "busy", "4xx", "5xx", "outage", "cut off", "cut off half way", "reset"],
)
def test_a_fault_is_told_as_promised_and_the_endpoint_asked_once(
    deployed: Deployed,
    sagemaker: SageMakerServer,
    fault: Fault,
    status: int,
    retry_after: str | None,
) -> None:
    sagemaker.scores([1.0, 2.0])  # leaves a connection open, on which the fault comes
    assert ask(deployed.stage).status_code == 200
    sagemaker.requests.clear()
    fault(sagemaker)
    check(ask(deployed.stage), status, retry_after)
    assert len(sagemaker.requests) == 1


@pytest.mark.slow
def test_a_model_that_is_too_slow_is_told_before_api_gateway_gives_up(deployed: Deployed, sagemaker: SageMakerServer) -> None:
    sagemaker.reset()
    sagemaker.sleeps(28)
    answer = ask(deployed.stage)
    check(answer, 429, "5")
    assert "send fewer documents" in answer.json()["message"], "API Gateway's own words are others"
    assert len(sagemaker.requests) == 1
