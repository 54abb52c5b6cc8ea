"""While the endpoint is away: what callers are told in each dialect, and that one of them brings it back, once."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from sagemaker_server import SageMakerServer

FOLDER = Path(__file__).parents[2] / "lambda" / "rerank"
MACHINE = "arn:aws:states:ap-northeast-2:1:stateMachine:ko-reranker-prod-wake"
AWAY = "Endpoint e of account 123456789012 not found."
SECONDS = 600
BODIES = {
    "/v2/rerank": {"query": "질문", "documents": ["답", "글"]},
    "/v1/rerank": {"query": "질문", "documents": ["답", "글"]},
    "/rerank": {"query": "질문", "texts": ["답", "글"]},
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "x")


class Stage:
    """The function before an endpoint that is away, a table, and Step Functions."""

    def __init__(self, model: SageMakerServer, table: SageMakerServer, states: SageMakerServer, *, wakes: bool) -> None:
        self.now = 1_000_000.0
        import document_counts
        import model_endpoint
        import reranking
        import waking

        self.model, self.table, self.states, self._answer = model, table, states, reranking.answer
        region = {"AWS_REGION": "ap-northeast-2"}
        runtime = sys.modules["sagemaker_runtime"].RuntimeClient.from_environment({**region, "AWS_ENDPOINT_URL": model.url})
        self._endpoint = model_endpoint.ModelEndpoint("e", runtime)
        self._settings = reranking.Settings("e", counts_table="counts")
        counts = document_counts.CountsClient.from_environment({**region, "AWS_ENDPOINT_URL_DYNAMODB": table.url})
        starts = waking.StatesClient.from_environment({**region, "AWS_ENDPOINT_URL_SFN": states.url})
        counts.answer_seconds = starts.answer_seconds = 10.0  # moto may be slow on a busy machine
        bell = waking.Bell(MACHINE, "counts", counts, starts) if wakes else None
        self._waking = waking.Waking(SECONDS, bell, clock=lambda: self.now)
        self._items, self._lock = boto3.client("dynamodb", "ap-northeast-2"), threading.Lock()
        self._items.create_table(
            TableName="counts",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        for _ in range(100):
            model.fails("ValidationError", AWAY)
            table.waiting.append(self._update)
            states.answers(b"{}")

    def _update(self, handler: Any, body: bytes) -> None:
        try:
            with self._lock:
                self._items.update_item(**json.loads(body))
            handler.reply(200, b"{}")
        except ClientError as error:
            said = {"__type": f"com.amazonaws.dynamodb.v20120810#{error.response['Error']['Code']}"}
            handler.reply(400, json.dumps({**said, "Item": error.response.get("Item")}).encode())

    def __call__(self, path: str = "/v2/rerank", method: str = "POST") -> tuple[int, dict[str, Any], dict[str, str]]:
        event = {
            "httpMethod": method,
            "path": path,
            "headers": {"content-type": "application/json"},
            "body": json.dumps(BODIES[path]) if path in BODIES else "",
            "requestContext": {"requestId": "r1"},
        }
        response = self._answer(event, self._endpoint, self._settings, None, self._waking)
        return response["statusCode"], json.loads(response["body"]), response["headers"]

    @property
    def started(self) -> list[dict[str, Any]]:
        """The bodies of StartExecution."""
        return [json.loads(body) for _, _, body in self.states.requests]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Stage]:
    monkeypatch.syspath_prepend(str(FOLDER))
    with mock_aws(), SageMakerServer() as model, SageMakerServer() as table, SageMakerServer() as states:
        yield Stage(model, table, states, wakes=getattr(request, "param", True))


@pytest.mark.parametrize("stage", [False], indirect=True)
@pytest.mark.parametrize("path", BODIES)
def test_callers_are_told_when_to_come_again_in_the_shape_of_every_error(stage: Stage, path: str) -> None:
    status, body, headers = stage(path)
    assert (status, headers["Retry-After"], body["error_type"]) == (429, str(SECONDS), "overloaded")
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert "switched off or starting, and starting takes about 600 s" in body["message"]
    assert not stage.table.requests and not stage.started


def test_the_first_request_brings_the_endpoint_back_and_each_is_told_what_is_left(stage: Stage) -> None:
    status, body, headers = stage()
    assert (status, headers["Retry-After"]) == (429, "600")
    assert "is starting: come again in about 600 s" in body["message"]
    stage.now += 240
    assert stage("/rerank")[2]["Retry-After"] == "360"
    stage.now += 355
    assert stage()[2]["Retry-After"] == "15"  # never at once
    assert stage.started == [{"stateMachineArn": MACHINE, "name": "request-1000000", "input": "{}"}]
    # It hasn't come in its time: asked for again.
    stage.now += 10
    assert stage()[2]["Retry-After"] == "600"
    assert [item["name"] for item in stage.started] == ["request-1000000", "request-1000605"]


def test_a_crowd_starts_it_once(stage: Stage) -> None:
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda _: stage(), range(40)))
    assert {(status, headers["Retry-After"]) for status, _, headers in answers} == {(429, "600")}
    assert len(stage.started) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/info"])
def test_who_only_asks_what_there_is_keeps_nothing_running(stage: Stage, path: str) -> None:
    status, _, headers = stage(path, "GET")
    assert (status, headers["Retry-After"]) == (429, "600")
    assert not stage.started


def test_what_could_not_be_started_is_tried_by_the_next_request(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.states.waiting.clear()
    stage.states.fails("AccessDeniedException", status=400)
    stage.states.answers(b"{}")
    status, body, headers = stage()
    assert (status, headers["Retry-After"]) == (429, "600")
    assert "switched off" in body["message"] and "is starting: come" not in body["message"]
    assert '"not_woken_cause": "AccessDeniedException"' in capsys.readouterr().out.replace('":"', '": "')
    assert "is starting: come again" in stage()[1]["message"]
    assert len(stage.started) == 2


def test_without_the_table_nothing_is_started_and_the_caller_told_all_the_same(stage: Stage) -> None:
    stage.table.waiting.clear()
    stage.table.fails("ProvisionedThroughputExceededException")
    assert (stage()[0], stage.started) == (429, [])
