"""The app around a ranker: routes, limits, errors, logs, and what happens when many come at once."""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.serving import ServingOptions, create_app
from ko_reranker.serving.logs import JsonLines
from ko_reranker.serving.server import reserve, run

QUERY = "서울의 인구는?"
DOCUMENTS = ["부산은 항구다.", "", "서울의 인구는 940만 명이다."]
BODY = {"query": QUERY, "documents": DOCUMENTS}


class Broken(StubRanker):
    """Warms up, then fails with a message that quotes the document."""

    def logit(self, query: str, document: str) -> float:
        if query == QUERY:
            raise RuntimeError(f"cannot digest {document}")
        return super().logit(query, document)


class NotANumber(StubRanker):
    def logit(self, query: str, document: str) -> float:
        return float("nan") if query == QUERY else super().logit(query, document)


class Gated(StubRanker):
    """Scores only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def logit(self, query: str, document: str) -> float:
        if query == QUERY:
            self.entered.set()
            assert self.leave.wait(timeout=10)
        return super().logit(query, document)


@pytest.fixture
def ranker():
    return StubRanker()


@pytest.fixture
def client(ranker):
    with TestClient(create_app(ranker), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/v2/rerank", "/v1/rerank", "/rerank", "/v2/rerank/", "/v2//rerank", "/v1/retrieval/a%0Ab/c/reranking"],
)
def test_every_route_ranks(client, path):
    answer = client.post(path, json=BODY)
    assert answer.status_code == 200
    assert [item["index"] for item in answer.json()["results"]] == [2, 0, 1]
    assert answer.json()["model"] == "stub"


def test_invocations_speaks_every_dialect(client):
    assert client.post("/invocations", json={"query": QUERY, "texts": DOCUMENTS}).json()[0]["index"] == 2
    pairs = [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]
    scores = [item["score"] for item in client.post("/invocations", json={"inputs": pairs}).json()]
    assert scores[2] > scores[0] > scores[1] == 0.0
    said = client.post("/invocations", json=BODY | {"format": "logits"}).json()
    assert said["logits"] == [2.0, -100.0, 7.0]
    assert (said["model"], said["max_length"], len(said["tokens"])) == ("stub", 20, 3)


def test_one_query_is_one_call_and_blank_documents_never_reach_the_model(client, ranker):
    ranker.calls.clear()
    client.post("/invocations", json={"inputs": [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]})
    assert ranker.calls == [[DOCUMENTS[0], DOCUMENTS[2]]]
    client.post("/invocations", json={"query": QUERY, "documents": ["", " "]})
    assert len(ranker.calls) == 1


def test_a_truncated_document_is_a_warning(client):
    answer = client.post("/rerank", json={"query": QUERY, "documents": ["가" * 21, "나"]}).json()
    assert "index 0" in answer["meta"]["warnings"][0]
    answer = client.post("/rerank", json={"query": "가" * 21, "documents": ["나"]}).json()
    assert "query" in answer["meta"]["warnings"][0]


def test_the_model_is_called_what_the_operator_calls_it(ranker):
    with TestClient(create_app(ranker, ServingOptions(model_name="release-7"))) as client:
        assert client.post("/rerank", json=BODY).json()["model"] == "release-7"


def test_ping_is_healthy_only_when_warm(ranker):
    app = create_app(ranker)
    assert TestClient(app).get("/ping").status_code == 503
    with TestClient(app) as client:
        assert client.get("/ping").status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
    assert ranker.calls, "warming up scores something"


class SlowToBegin(StubRanker):
    """Takes its time for the first pass, as one that compiles does."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, pairs):
        self.passes += 1
        if self.passes == 1:
            time.sleep(0.5)
        return super().forward(pairs)


def test_a_slow_first_pass_sends_no_large_request_away():
    ranker = SlowToBegin()
    large = {"query": QUERY, "documents": [f"{number:020}" for number in range(10_000)]}
    with TestClient(create_app(ranker, ServingOptions(request_timeout_seconds=20))) as client:
        assert client.post("/rerank", json=large).status_code == 200


def test_warming_up_scores_different_texts_and_fills_a_micro_batch(ranker):
    with TestClient(create_app(ranker)):
        short, *full = ranker.calls
    assert "문서" in short
    assert all(len({*texts}) == len(texts) >= ranker.engine.batch_tokens / ranker.max_length for texts in full)


def test_ping_tells_a_model_that_fails_at_everything_from_a_text_that_it_cannot_digest():
    ranker = Broken()
    with TestClient(create_app(ranker), raise_server_exceptions=False) as client:
        assert client.post("/rerank", json=BODY).status_code == 500
        assert client.get("/ping").status_code == 200
        ranker.logit = lambda query, document: 1 / 0
        assert client.get("/ping").status_code == 200, "nothing has failed since"
        assert client.post("/rerank", json=BODY).status_code == 500
        answer = client.get("/ping")
        assert (answer.status_code, answer.json()) == (503, {"status": "failing"})
        del ranker.logit
        assert client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "content_type", "status"),
    [
        ("POST", "/rerank", b"{", "application/json", 400),
        ("POST", "/rerank", b"", "application/json", 400),
        ("POST", "/nowhere", b"{}", "application/json", 404),
        ("POST", "/no%0Awhere", b"{}", "application/json", 404),
        ("GET", "/rerank", b"", None, 405),
        ("POST", "/ping", b"{}", "application/json", 405),
        ("POST", "/rerank", b"a=b", "application/x-www-form-urlencoded", 415),
        ("POST", "/rerank", b'{"query": "a", "documents": []}', None, 422),
        ("POST", "/rerank", b'{"query": "a", "texts": []}', None, 400),
    ],
)
def test_every_refusal_has_the_same_body(client, method, path, content, content_type, status):
    headers = {"content-type": content_type} if content_type else {}
    answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    body = answer.json()
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == status


def test_a_body_past_the_limit_is_a_413_that_names_it(ranker):
    with TestClient(create_app(ranker, ServingOptions(max_body_bytes=100_000))) as client:
        declared = client.post("/rerank", json={"query": QUERY, "documents": ["가" * 50_000]})
        chunked = client.post("/rerank", content=(b"x" * 60_000 for _ in range(2)))
        for answer in (declared, chunked):
            assert answer.status_code == 413
            assert "0.1 MB" in answer.json()["message"]
        assert client.post("/rerank", json=BODY).status_code == 200


@pytest.mark.parametrize("broken", [Broken, NotANumber])
def test_a_defect_is_a_500_without_a_text_or_a_trace(broken, caplog):
    with TestClient(create_app(broken()), raise_server_exceptions=False) as client:
        answer = client.post("/rerank", json=BODY)
    assert answer.status_code == 500
    lines = [JsonLines().format(record) for record in caplog.records]
    defect = json.loads(next(line for line in lines if '"defect"' in line))
    assert defect["at"] and defect["error"] in {"RuntimeError", "ArithmeticError"}
    assert not any(secret in text for text in (answer.text, *lines) for secret in (DOCUMENTS[0], "Traceback"))


def test_a_log_line_says_how_much_and_how_long_but_never_what(client, caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    answer = client.post("/rerank", json=BODY, headers={"x-request-id": "abc-1", "authorization": "Bearer secret"})
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert (line["event"], line["request_id"], line["documents"], line["blank"]) == ("rerank", "abc-1", 3, 1)
    assert line["tokens"] > 0 and line["milliseconds"] >= 0
    assert answer.headers["x-request-id"] == answer.json()["id"] == "abc-1"
    assert not any(secret in json.dumps(line, ensure_ascii=False) for secret in (QUERY, *filter(None, DOCUMENTS), "secret"))


def test_the_id_of_the_lambda_is_kept_and_a_hostile_one_is_not(client):
    kept = client.post("/invocations", json=BODY, headers={"x-amzn-sagemaker-inference-id": "c6af-9"})
    assert kept.headers["x-request-id"] == "c6af-9"
    fresh = client.post("/invocations", json=BODY, headers={"x-request-id": '"}{' * 50})
    assert len(fresh.headers["x-request-id"]) == 36


def test_the_server_answers_while_the_model_works_and_sends_away_who_would_wait_too_long():
    ranker = Gated()
    with TestClient(create_app(ranker, ServingOptions(max_waiting=0))) as client, ThreadPoolExecutor() as callers:
        scored = callers.submit(client.post, "/rerank", json=BODY)
        assert ranker.entered.wait(timeout=10)
        assert client.get("/ping").status_code == 200
        refused = client.post("/rerank", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        ranker.leave.set()
        assert scored.result().status_code == 200
        assert client.post("/rerank", json=BODY).status_code == 200


def test_a_model_that_cannot_score_never_starts():
    class Unfit(StubRanker):
        def logit(self, query: str, document: str) -> float:
            raise RuntimeError("out of memory")

    assert run(create_app(Unfit()), reserve("127.0.0.1", 0), ServingOptions()) is False
