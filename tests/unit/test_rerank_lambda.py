"""The public API: API Gateway events in, proxy responses out; SageMaker is an HTTP server that says what the test tells it."""

from __future__ import annotations

import base64
import importlib
import json
import socket
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sagemaker_server import SageMakerServer

from ko_reranker.protocol import TIMEOUT_HEADER, read_timeout
from local_cloud.tls import ensure_certificate

FOLDER = Path(__file__).parents[2] / "lambda" / "rerank"
QUERY, DOCUMENTS = "서울의 인구는?", ["부산은 항구다.", "서울의 인구는 940만 명이다."]
BODY = {"query": QUERY, "documents": DOCUMENTS}
REQUEST_ID = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
FACTS = b'{"model": "run-1", "max_length": 512}'


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("reranking"), importlib.import_module("model_endpoint")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")


@pytest.fixture(scope="module")
def server():
    with SageMakerServer() as server:
        yield server


@pytest.fixture
def api(modules, server, capsys):
    """Return a caller of the Lambda, with the endpoint behind it."""
    server.reset()
    return Api(*modules, server, capsys)


class Api:
    def __init__(self, reranking, model_endpoint, server, capsys, *, url=None, authority="", **options):
        self.server = server
        self.client = sys.modules["sagemaker_runtime"].RuntimeClient.from_environment(
            {"AWS_REGION": "ap-northeast-2", "AWS_ENDPOINT_URL": url or server.url, "AWS_CA_BUNDLE": str(authority)}
        )
        self._reranking = reranking
        self._settings = reranking.Settings("live-endpoint")
        self.endpoint = model_endpoint.ModelEndpoint("live-endpoint", self.client, **options)
        self._capsys = capsys
        self.scores, self.answers, self.fails = server.scores, server.answers, server.fails

    @property
    def calls(self):
        return len(self.server.requests)

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
        response = self._reranking.answer(event, self.endpoint, self._settings)
        assert not self.server.waiting, "the endpoint was not called as often as expected"
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


def test_the_container_gets_the_texts_and_the_request_id(api):
    api.scores([1.0, 2.0])
    api({"query": QUERY, "documents": [{"text": DOCUMENTS[0], "secret": "x"}, DOCUMENTS[1]], "return_documents": True})
    [(path, headers, body)] = api.server.requests
    assert path == "/endpoints/live-endpoint/invocations"
    assert json.loads(body) == {"format": "logits", "query": QUERY, "documents": DOCUMENTS}
    assert headers["X-Amzn-SageMaker-Inference-Id"] == REQUEST_ID


def test_the_container_is_told_how_long_somebody_waits(api, modules, server, capsys):
    api.scores([1.0, 2.0])
    api(BODY)
    [(_, headers, _)] = api.server.requests
    assert 20 < read_timeout(headers[TIMEOUT_HEADER]) < modules[1].DEADLINE_SECONDS
    hasty = Api(*modules, server, capsys, deadline_seconds=5)
    server.reset()
    hasty.scores([1.0, 2.0])
    hasty(BODY)
    [(_, headers, _)] = server.requests
    assert 3 < read_timeout(headers[TIMEOUT_HEADER]) < 5


def test_the_deadline_is_a_setting_of_the_function(modules):
    settings = modules[0].Settings
    assert settings.from_environment({"ENDPOINT_NAME": "e", "DEADLINE_SECONDS": "7.5"}).deadline_seconds == 7.5
    assert settings.from_environment({"ENDPOINT_NAME": "e"}).deadline_seconds == modules[1].DEADLINE_SECONDS
    for wrong in ("soon", "0", "31", "nan"):
        with pytest.raises(modules[0].WrongVariable, match="DEADLINE_SECONDS"):
            settings.from_environment({"ENDPOINT_NAME": "e", "DEADLINE_SECONDS": wrong})


def test_the_signature_is_the_one_that_botocore_makes(api):
    api.scores([1.0, 2.0])
    api(BODY)
    [(path, headers, body)] = api.server.requests
    signed = headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    assert "x-amz-security-token" in signed
    sent = {name: value for name, value in headers.items() if name.lower() in signed}
    request = AWSRequest("POST", api.server.url + path, sent, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials("AKID", "secret", "token"), "sagemaker", "ap-northeast-2")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["Authorization"].endswith(signer.signature(text, request))


def test_connections_are_kept_and_one_that_died_meanwhile_is_replaced(api):
    for _ in range(2):
        api.scores([1.0, 2.0])
        assert api(BODY)[0] == 200
    assert api.server.connections == 1
    api.server.close_connections()
    api.scores([1.0, 2.0])
    assert api(BODY)[0] == 200
    assert (api.server.connections, api.calls) == (2, 3)


def test_a_connection_that_idled_for_long_is_not_trusted(api):
    for kept in (10.0, 0.0):
        api.client.kept_seconds = kept
        api.scores([1.0, 2.0])
        assert api(BODY)[0] == 200
    assert (api.server.connections, api.calls) == (2, 2)


def test_many_documents_become_parallel_calls_and_one_answer(modules, server, capsys):
    server.reset()
    api = Api(*modules, server, capsys, documents_per_call=10)
    api.answers(FACTS)
    server.score_with(lambda text: float(text.removeprefix("문서 ")), times=5)
    documents = [f"문서 {index}" for index in range(45)]
    status, body, _ = api({"query": QUERY, "documents": documents, "top_n": 3, "max_tokens_per_doc": 64})
    assert (status, [item["index"] for item in body["results"]]) == (200, [44, 43, 42])
    assert body["usage"]["total_tokens"] == 45 * 7
    sent = [json.loads(sent) for _, _, sent in server.requests[1:]]
    assert sorted(len(part["documents"]) for part in sent) == [5, 10, 10, 10, 10]
    assert {(part["query"], part["max_tokens_per_doc"]) for part in sent} == {(QUERY, 64)}


def test_large_documents_become_calls_that_each_fit(api):
    api.answers(FACTS)
    api.server.score_with(len, times=2)
    status, body, _ = api({"query": QUERY, "documents": ["가" * 1_000_000, "나" * 999_000]})
    assert (status, len(body["results"]), api.calls) == (200, 2, 3)


def test_documents_that_are_ranked_by_comparison_are_sent_together(modules, server, capsys):
    server.reset()
    api = Api(*modules, server, capsys, documents_per_call=1)
    api.answers(b'{"model": "comparing", "max_length": 512, "whole": true}')
    places = {"logits": [0.5, 1.0], "tokens": [7, 7], "truncated": [False, False], "model": "comparing", "absolute": False}
    api.answers(json.dumps(places).encode())
    status, body, _ = api(BODY | {"top_n": 2})
    assert (status, [item["relevance_score"] for item in body["results"]]) == (200, [1.0, 0.5])
    assert body["meta"]["scale"] == "rank"
    assert any("places" in warning for warning in body["meta"]["warnings"])
    sent = json.loads(server.requests[1][2])
    assert (sent["documents"], sent["top_n"]) == (DOCUMENTS, 2)


def test_a_model_that_took_over_while_a_request_was_split_is_asked_for_again(modules, server, capsys):
    server.reset()
    api = Api(*modules, server, capsys, documents_per_call=1, parallel_calls=1)
    part = {"logits": [1.0], "tokens": [7], "truncated": [False], "model": "comparing", "absolute": False}
    for answer in (FACTS, *[json.dumps(part).encode()] * 2):
        api.answers(answer)
    status, _, headers = api(BODY)
    assert (status, headers["Retry-After"]) == (429, "1")
    api.answers(b'{"model": "comparing", "max_length": 512, "whole": true}')
    whole = {"logits": [0.5, 1.0], "tokens": [7, 7], "truncated": [False] * 2, "model": "comparing", "absolute": False}
    api.answers(json.dumps(whole).encode())
    assert api(BODY)[0] == 200


def test_what_comparing_cost_is_told_and_more_documents_than_it_takes_are_refused(modules, server, capsys):
    server.reset()
    api = Api(*modules, server, capsys, documents_per_call=1)
    api.answers(b'{"model": "comparing", "max_length": 512, "whole": true, "max_documents": 2}')
    effort = {"model_calls": 6, "comparisons": 3, "output_tokens": 2}
    places = {"logits": [0.5, 1.0], "tokens": [7, 7], "truncated": [False] * 2, "model": "comparing", "absolute": False}
    api.answers(json.dumps(places | {"effort": effort, "warnings": ["one answer was no order"]}).encode())
    status, body, _ = api(BODY)
    assert (status, body["usage"]) == (200, {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16})
    assert body["meta"]["cost"] == {"model_calls": 6, "comparisons": 3, "input_tokens": 14, "output_tokens": 2}
    assert body["meta"]["tokens"] == {"input_tokens": 14, "output_tokens": 2}
    assert "one answer was no order" in body["meta"]["warnings"]
    status, body, _ = api(BODY | {"documents": ["하나", "둘", "셋"]})
    assert (status, body["error"]["param"], len(server.requests)) == (422, "documents", 2)
    assert "over the limit of 2" in body["message"]


@pytest.mark.parametrize(("instructed", "warnings"), [(True, 0), (False, 1)])
def test_an_instruction_that_no_model_reads_is_a_warning(api, instructed, warnings):
    answer = {"logits": [1.0, 2.0], "tokens": [7, 7], "truncated": [False, False], "model": "m", "instructed": instructed}
    api.answers(json.dumps(answer).encode())
    assert len(api(BODY | {"instruct": "법령을 찾아라"})[1]["meta"]["warnings"]) == warnings
    assert json.loads(api.server.requests[0][2])["instruction"] == "법령을 찾아라"


def test_after_a_failed_part_no_further_call_leaves(modules, server, capsys):
    server.reset()
    api = Api(*modules, server, capsys, documents_per_call=1, parallel_calls=1)
    api.answers(FACTS)
    server.fails("ThrottlingException")
    assert (api({"query": QUERY, "documents": list("가나다라마")})[0], api.calls) == (429, 2)


def test_what_is_served_is_asked_once_a_minute(api):
    api.answers(FACTS)
    info = api(method="GET", path="/info")[1]
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("run-1", 512, 10_000)
    assert api(method="GET", path="/v1/models")[1]["data"][0]["id"] == "run-1"
    assert api(method="GET", path="/openapi.json")[1]["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"Host": "rerank.example.com"}, "/"),
        ({"Host": "abc.execute-api.ap-northeast-2.amazonaws.com"}, "/live"),
        ({"Host": "abc.execute-api.ap-northeast-2.amazonaws.com", "X-Amz-Cf-Id": "x"}, "/"),
    ],
    ids=["a domain of ones own", "API Gateway's own host", "CloudFront"],
)
def test_the_description_names_the_base_that_it_was_found_under(api, headers, base):
    assert api(method="GET", path="/openapi.json", headers=headers)[1]["servers"] == [{"url": base}]


def test_too_many_documents_are_a_422_that_names_the_limit(api):
    status, body, _ = api({"query": QUERY, "documents": ["a"] * 10_001})
    assert (status, body["error"]["param"]) == (422, "documents")
    assert "10000" in body["message"]


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
        ({"body": BODY | {"top_n": -1}}, 422),
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
    api.answers(FACTS)
    api.server.score_with(len, times=20)
    assert api({"query": QUERY, "documents": [{"a": n} for n in range(10_000)], "model": "m" * 6_000_000})[0] == 413


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        ({"code": "ThrottlingException"}, 429, "1"),
        ({"code": "ModelNotReadyException", "status": 429}, 429, "30"),
        ({"code": "ValidationError", "message": "Endpoint live-endpoint of account 123456789012 not found."}, 429, "600"),
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
    assert (said, headers.get("Retry-After"), api.calls) == (status, retry_after, 1)
    assert not any(word in json.dumps(body) for word in ("arn:", "Traceback", "html", "123456789012", "validation err"))


def test_the_containers_own_refusal_reaches_the_caller(api):
    refusal = {"message": "query: is empty", "error": {"param": "query"}, "error_type": "validation"}
    api.fails("ModelError", status=424, OriginalStatusCode=422, OriginalMessage=json.dumps(refusal))
    status, body, _ = api(BODY)
    assert (status, body["message"], body["error"]["param"]) == (422, "query: is empty", "query")


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"logits":[1.0],"tokens":[1],"truncated":[false],"model":"m"}'])
def test_an_answer_that_is_none_is_a_500(api, answer):
    api.answers(answer)
    assert (api(BODY)[0], api.calls) == (500, 1)


def test_a_connection_that_is_cut_off_is_a_503_and_asked_once(api):
    api.server.cuts_off()
    assert (api(BODY)[0], api.calls) == (503, 1)
    api.server.cuts_off(after=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    assert (api(BODY)[0], api.calls) == (503, 2)


@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
def test_a_kept_connection_that_is_cut_off_is_not_asked_again_either(api, abruptly):
    api.scores([1.0, 2.0])
    assert api(BODY)[0] == 200
    api.server.cuts_off(abruptly=abruptly)
    assert (api(BODY)[0], api.server.connections, api.calls) == (503, 1, 2)
    api.scores([1.0, 2.0])
    assert (api(BODY)[0], api.server.connections, api.calls) == (200, 2, 3)


def test_an_endpoint_that_does_not_listen_is_a_503(api):
    api.client.url = "http://127.0.0.1:1"
    assert (api(BODY)[0], api.calls) == (503, 0)


class Doorman:
    """A listener that lets nobody in at first: it takes connections and says nothing, or hangs up, before it hands one on.

    Whoever comes speaks TLS, and waits for a certificate that only the server behind it has.
    """

    def __init__(self, server, times, *, hangs_up=False):
        self.met = 0
        self._target, self._times, self._hangs_up = urlsplit(server.url), times, hangs_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._kept = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        for connection in self._kept:
            connection.close()

    def _serve(self):
        while True:
            try:
                inside, _ = self._listener.accept()
            except OSError:
                return
            self.met += 1
            self._kept.append(inside)
            if self.met > self._times:
                outside = socket.create_connection((self._target.hostname, self._target.port))
                self._kept.append(outside)
                for one, other in ((inside, outside), (outside, inside)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()
            elif self._hangs_up:
                inside.close()

    @staticmethod
    def _carry(one, other):
        try:
            while part := one.recv(65536):
                other.sendall(part)
        except OSError:
            pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return ensure_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("hangs_up", [False, True], ids=["silent", "hanging up"])
def test_connecting_is_tried_again_because_nothing_was_sent(modules, certificate, capsys, hangs_up):
    with SageMakerServer(certificate) as server, Doorman(server, 3, hangs_up=hangs_up) as doorman:
        api = Api(*modules, server, capsys, url=doorman.url, authority=certificate.authority)
        api.client.connect_seconds = 0.2
        api.scores([1.0, 2.0])
        assert (api(BODY)[0], api.calls, doorman.met) == (200, 1, 4)


@pytest.mark.parametrize("hangs_up", [False, True], ids=["silent", "hanging up"])
def test_no_connection_within_the_deadline_is_a_429_that_says_when_to_come_again(modules, server, capsys, hangs_up):
    server.reset()
    with Doorman(server, 1000, hangs_up=hangs_up) as doorman:
        api = Api(*modules, server, capsys, url=doorman.url, deadline_seconds=0.5)
        api.client.connect_seconds = 0.05
        status, body, headers = api(BODY)
    assert (status, headers["Retry-After"], body["error_type"], api.calls) == (429, "5", "overloaded", 0)
    assert doorman.met >= 2


@pytest.mark.parametrize("slow", [lambda server: server.sleeps(1.0), lambda server: server.drips(20, 0.1)])
def test_a_slow_model_is_a_429_within_the_deadline(modules, server, capsys, slow):
    server.reset()
    api = Api(*modules, server, capsys, deadline_seconds=0.3)
    slow(server)  # waited for to its end, it would be a 503 or a 500
    status, _, headers = api(BODY)
    assert (status, headers["Retry-After"], api.calls) == (429, "5", 1)


def test_a_defect_of_ours_is_a_500_without_its_message(api, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("서울 secret text")

    monkeypatch.setattr(api.endpoint, "score", broken)
    status, body, _ = api(BODY)
    assert status == 500
    assert "secret" not in json.dumps(body) + api.log


def test_the_deadline_leaves_api_gateway_room(modules):
    _, model_endpoint = modules
    assert model_endpoint.DEADLINE_SECONDS < 25


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


@pytest.mark.parametrize("broken", [{"headers": 7}, {"requestContext": []}, {"headers": None, "requestContext": "x"}])
def test_a_broken_event_is_a_500_and_not_an_exception(api, modules, broken):
    reranking, _ = modules
    answer = reranking.answer({"path": 5, "httpMethod": "POST"} | broken, None, reranking.Settings("e"))
    assert answer["statusCode"] in {404, 500}


def test_a_missing_variable_is_named_at_cold_start(modules):
    reranking, _ = modules
    with pytest.raises(reranking.WrongVariable, match="ENDPOINT_NAME"):
        reranking.Settings.from_environment({})
