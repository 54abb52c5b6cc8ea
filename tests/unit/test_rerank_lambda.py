"""The public API: API Gateway events in, proxy responses out, SageMaker played by botocore's own stub."""

from __future__ import annotations

import base64
import importlib
import io
import json
import socket
import sys
import threading
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

FOLDER = Path(__file__).parents[2] / "lambda" / "rerank"
QUERY, DOCUMENTS = "서울의 인구는?", ["부산은 항구다.", "서울의 인구는 940만 명이다."]
BODY = {"query": QUERY, "documents": DOCUMENTS}
REQUEST_ID = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("reranking"), importlib.import_module("model_endpoint")
    finally:
        sys.path.remove(str(FOLDER))


def runtime(**config):
    return boto3.client(
        "sagemaker-runtime",
        region_name="ap-northeast-2",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


@pytest.fixture
def api(modules, capsys):
    """Return a caller of the Lambda, and the stub of the endpoint behind it."""
    return Api(*modules, capsys)


class Api:
    def __init__(self, reranking, model_endpoint, capsys):
        self.client = runtime()
        self.stub = Stubber(self.client)
        self.stub.activate()
        self._reranking = reranking
        self._settings = reranking.Settings("live-endpoint")
        self._endpoint = model_endpoint.ModelEndpoint("live-endpoint", self.client)
        self._capsys = capsys

    def scores(self, logits, truncated=None):
        answer = {
            "logits": logits,
            "tokens": [7] * len(logits),
            "truncated": truncated or [False] * len(logits),
            "model": "run-1",
            "max_length": 512,
        }
        self.answers(json.dumps(answer).encode())

    def answers(self, body: bytes):
        response = {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": "application/json"}
        expected = {"EndpointName": "live-endpoint", "ContentType": ANY, "Accept": ANY, "InferenceId": ANY, "Body": ANY}
        self.stub.add_response("invoke_endpoint", response, expected)

    def fails(self, code, message="", status=400, **modeled):
        self.stub.add_client_error("invoke_endpoint", code, message, status, modeled_fields=modeled)

    def raises(self, *errors):
        """Let the calls fail below HTTP, one error after the other."""
        self.calls = 0
        waiting = list(errors)

        def invoke_endpoint(**_):
            self.calls += 1
            raise waiting.pop(0)

        self.client.invoke_endpoint = invoke_endpoint

    def __call__(self, body=None, *, method="POST", path="/v2/rerank", headers=None, encoded=False):
        text = body if isinstance(body, str) or body is None else json.dumps(body, ensure_ascii=False)
        event = {
            "httpMethod": method,
            "path": path,
            "headers": {"content-type": "application/json", "x-api-key": "secret-" * 4} if headers is None else headers,
            "body": base64.b64encode(text.encode()).decode() if encoded else text,
            "isBase64Encoded": encoded,
            "requestContext": {"requestId": REQUEST_ID, "stage": "live"},
        }
        response = self._reranking.answer(event, self._endpoint, self._settings)
        self.stub.assert_no_pending_responses()
        self.log = self._capsys.readouterr().out
        return response["statusCode"], json.loads(response["body"]), response["headers"]


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank", "/v2/rerank/", "//v1//rerank"])
def test_documents_are_ranked_on_every_path(api, path):
    api.scores([-2.0, 3.0])
    status, body, headers = api(BODY, path=path)
    assert status == 200
    assert [item["index"] for item in body["results"]] == [1, 0]
    assert body["id"] == headers["X-Request-Id"] == REQUEST_ID


def test_every_dialect_is_answered_in_kind(api):
    api.scores([-2.0, 3.0])
    assert [item["index"] for item in api({"query": QUERY, "texts": DOCUMENTS}, path="/rerank")[1]] == [1, 0]
    api.scores([-2.0, 3.0])
    said = api({"inputs": [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]})[1]
    assert [item["label"] for item in said] == ["LABEL_0", "LABEL_0"]


def test_the_container_gets_the_texts_and_the_request_id(api, modules):
    sent = {}
    invoke = api.client.invoke_endpoint
    api.client.invoke_endpoint = lambda **call: sent.update(call) or invoke(**call)
    api.scores([1.0, 2.0])
    api({"query": QUERY, "documents": [{"text": DOCUMENTS[0], "secret": "x"}, DOCUMENTS[1]], "return_documents": True})
    assert json.loads(sent["Body"]) == {"format": "logits", "query": QUERY, "documents": DOCUMENTS}
    assert sent["InferenceId"] == REQUEST_ID


def test_a_base64_body_is_read(api):
    api.scores([1.0, 2.0])
    assert api(BODY, encoded=True)[0] == 200


def test_a_truncated_document_is_a_warning(api):
    api.scores([1.0, 2.0], truncated=[True, False])
    assert len(api(BODY)[1]["meta"]["warnings"]) == 1


def test_health_needs_no_model(api):
    assert api(method="GET", path="/health")[:2] == (200, {"status": "ok"})
    assert api.log == ""


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ({"body": "{"}, 400),
        ({"body": None}, 400),
        ({"body": "", "method": "GET"}, 405),
        ({"body": BODY, "path": "/"}, 404),
        ({"body": BODY, "path": "/live/v2/rerank"}, 404),
        ({"body": BODY, "path": "/invocations"}, 404),
        ({"body": "a=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
        ({"body": {"query": QUERY, "documents": []}}, 422),
        ({"body": {"query": "", "documents": DOCUMENTS}}, 422),
        ({"body": BODY | {"top_n": 0}}, 422),
        ({"body": {"query": QUERY, "texts": []}, "path": "/rerank"}, 400),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_is_asked(api, call, status):
    said, body, _ = api(**call)
    assert said == status
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == status


def test_documents_past_the_endpoints_limit_are_a_413(api):
    status, body, _ = api({"query": QUERY, "documents": ["가" * 2_200_000]})
    assert (status, body["error"]["param"]) == (413, "documents")


def test_an_answer_past_lambdas_limit_is_a_413(api):
    api.scores([0.123456789] * 200_000)
    assert api({"query": QUERY, "documents": ["a"] * 200_000})[0] == 413


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        ({"code": "ThrottlingException"}, 429, "1"),
        ({"code": "ModelNotReadyException", "status": 429}, 429, "30"),
        ({"code": "ValidationError", "message": "Endpoint live-endpoint of account 123456789012 not found."}, 429, "30"),
        ({"code": "ValidationError", "message": "Inference Component has no capacity to process this request."}, 429, "30"),
        ({"code": "ValidationError", "message": "1 validation error detected"}, 500, None),
        ({"code": "ServiceUnavailable", "status": 503}, 503, None),
        ({"code": "InternalFailure", "status": 500}, 500, None),
        ({"code": "AccessDeniedException", "status": 403, "message": "User: arn:aws:sts::1:role"}, 500, None),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 429}, 429, "1"),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 503}, 429, "1"),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 500, "OriginalMessage": "Traceback"}, 500, None),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 0,
          "OriginalMessage": "Your invocation timed out while waiting for a response"}, 429, "5"),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 0, "OriginalMessage": "reset"}, 503, None),
        ({"code": "ModelError", "status": 424, "OriginalStatusCode": 413, "OriginalMessage": "<html>"}, 413, None),
    ],
)  # fmt: skip
def test_a_failure_of_sagemaker_becomes_a_status_that_clients_understand(api, failure, status, retry_after):
    api.fails(**failure)
    said, body, headers = api(BODY)
    assert (said, headers.get("Retry-After")) == (status, retry_after)
    assert not any(word in json.dumps(body) for word in ("arn:", "Traceback", "html", "123456789012", "validation err"))


def test_the_containers_own_refusal_reaches_the_caller(api):
    refusal = {"message": "query: is empty", "error": {"param": "query"}, "error_type": "validation"}
    api.fails("ModelError", status=424, OriginalStatusCode=422, OriginalMessage=json.dumps(refusal))
    status, body, _ = api(BODY)
    assert (status, body["message"], body["error"]["param"]) == (422, "query: is empty", "query")


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"logits":[1.0],"tokens":[1],"truncated":[false],"model":"m"}'])
def test_an_answer_that_is_none_is_a_500(api, answer):
    api.answers(answer)
    assert api(BODY)[0] == 500


URL = {"endpoint_url": "https://runtime.sagemaker.ap-northeast-2.amazonaws.com"}


@pytest.mark.parametrize(
    ("errors", "status", "calls"),
    [
        ([ReadTimeoutError(**URL)], 429, 1),
        ([ConnectTimeoutError(**URL)], 503, 1),
        ([ConnectionClosedError(**URL)] * 2, 503, 2),
        ([EndpointConnectionError(**URL)] * 2, 503, 2),
        ([ConnectionClosedError(**URL), ReadTimeoutError(**URL)], 429, 2),
        ([NoCredentialsError()], 500, 1),
        ([RuntimeError("서울 secret text")], 500, 1),
    ],
)
def test_a_broken_connection_is_tried_once_more_and_a_slow_model_is_not(api, errors, status, calls):
    api.raises(*errors)
    said, body, _ = api(BODY)
    assert (said, api.calls) == (status, calls)
    assert "secret" not in json.dumps(body) + api.log


def test_a_slow_model_is_a_429_within_the_deadline(modules, capsys):
    """A real client against a socket that never answers."""
    reranking, model_endpoint = modules
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept(), daemon=True).start()
        client = boto3.client(
            "sagemaker-runtime",
            region_name="ap-northeast-2",
            endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=0.2, retries={"total_max_attempts": 1}),
        )
        event = {"httpMethod": "POST", "path": "/v2/rerank", "body": json.dumps(BODY), "requestContext": {}}
        endpoint = model_endpoint.ModelEndpoint("e", client)
        assert reranking.answer(event, endpoint, reranking.Settings("e"))["statusCode"] == 429


def test_the_deadline_leaves_api_gateway_room(modules):
    _, model_endpoint = modules
    assert 2 * model_endpoint._CONNECT_SECONDS + model_endpoint._READ_SECONDS < 25


def test_one_line_tells_how_much_and_never_what(api):
    api.scores([-2.0, 3.0], truncated=[True, False])
    api(BODY)
    line = json.loads(api.log)
    assert (line["status"], line["documents"], line["tokens"], line["truncated"]) == (200, 2, 14, 1)
    assert (line["request_id"], line["upstream_calls"], line["endpoint"]) == (REQUEST_ID, 1, "live-endpoint")
    named = {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert {"latency", "upstream_latency", "documents", "tokens", "truncated"} <= named <= line.keys()
    assert not any(secret in api.log for secret in (*DOCUMENTS, QUERY, "secret-"))


def test_an_error_is_counted_by_kind_and_keeps_its_cause_for_the_operator(api):
    api.fails("AccessDeniedException", status=403)
    api(BODY)
    line = json.loads(api.log)
    assert (line["errors"], line["error_type"], line["cause"]) == (1, "backend", "AccessDeniedException")
    assert line["_aws"]["CloudWatchMetrics"][1]["Dimensions"] == [["endpoint"], ["endpoint", "error_type"]]


def test_a_broken_event_is_a_500_and_not_an_exception(api, modules):
    reranking, _ = modules
    answer = reranking.answer({"path": 5, "httpMethod": "POST", "headers": 7}, None, reranking.Settings("e"))
    assert answer["statusCode"] in {404, 500}


def test_a_missing_variable_is_named_at_cold_start(modules):
    reranking, _ = modules
    with pytest.raises(reranking.MissingVariable, match="ENDPOINT_NAME"):
        reranking.Settings.from_environment({})
