"""What the server does when there is too much of everything: clients that leave, that wait too long, that bring too much."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.serving import ServingOptions, create_app
from ko_reranker.serving.logs import JsonLines
from ko_reranker.serving.metrics import PHASES, Metrics
from ko_reranker.serving.server import reserve

GATE = "문 앞에서 기다리는 질문"
GATED = {"query": GATE, "documents": ["첫 문서"]}
BODY = {"query": "질문", "documents": ["둘째 문서", "", "가" * 30]}


class Gated(StubRanker):
    """Holds one query back until the test says so."""

    model_id = "gated"

    def __init__(self, max_queue_tokens: int | None = None) -> None:
        super().__init__(max_queue_tokens)
        self.seen: list[str] = []
        self.entered, self.leave = threading.Event(), threading.Event()

    def logit(self, query: str, document: str) -> float:
        self.seen.append(query)
        if query == GATE:
            self.entered.set()
            assert self.leave.wait(timeout=10)
        return super().logit(query, document)


@pytest.fixture
def ranker() -> Gated:
    return Gated()


def figures(exposition: str) -> dict[tuple[str, ...], float]:
    """Return the samples of /metrics by name and labels."""
    families = text_string_to_metric_families(exposition)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


@contextmanager
def listening(ranker: Gated, options: ServingOptions) -> Iterator[int]:
    """Run the server on a port of the loopback interface, as the command does."""
    listener = reserve("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(ranker, options), log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started, "the start")
        yield listener.getsockname()[1]
    finally:
        ranker.leave.set()
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


def send(port: int, body: dict, path: str = "/rerank") -> socket.socket:
    """Send a request and return the connection, unread."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def get(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return connection.makefile("rb").read().decode().partition("\r\n\r\n")[2]


def wait_for(condition, what: str) -> None:
    """Wait until something observable happens on the other side of a socket."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"{what} did not happen")


def test_a_client_that_goes_away_while_it_waits_is_never_scored(ranker, caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    with listening(ranker, ServingOptions()) as port:
        first = send(port, GATED)
        assert ranker.entered.wait(timeout=10)
        gone = send(port, {"query": "떠난 질문", "documents": ["문서"]})
        staying = send(port, BODY)
        wait_for(lambda: figures(get(port, "/metrics"))[("ko_reranker_requests_in_progress",)] == 3, "the arrival of three")
        gone.close()
        left = ("ko_reranker_requests_total", "disconnected", "499")
        wait_for(lambda: figures(get(port, "/metrics")).get(left) == 1, "the departure of one")
        ranker.leave.set()
        for connection in (first, staying):
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            connection.close()
    assert "떠난 질문" not in ranker.seen
    assert ranker.seen[-3:] == [GATE, "질문", "질문"]
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [line["status"] for line in lines if line["event"] == "disconnected"] == [499]


def test_a_client_that_goes_away_in_the_middle_of_its_body_is_let_go(ranker):
    with listening(ranker, ServingOptions()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b'POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"query"')
            wait_for(lambda: figures(get(port, "/metrics"))[("ko_reranker_requests_in_progress",)] == 1, "the arrival")
        wait_for(lambda: figures(get(port, "/metrics"))[("ko_reranker_requests_in_progress",)] == 0, "the departure")


def test_a_request_whose_time_is_over_is_a_429_and_gives_up_its_place(ranker):
    options = ServingOptions(request_timeout_seconds=0.2)
    with TestClient(create_app(ranker, options)) as client, ThreadPoolExecutor() as callers:
        first = callers.submit(client.post, "/rerank", json=GATED)
        assert ranker.entered.wait(timeout=10)
        late = client.post("/rerank", json={"query": "늦은 질문", "documents": ["문서"]})
        assert (late.status_code, late.json()["error_type"]) == (429, "overloaded")
        assert int(late.headers["retry-after"]) >= 1
        assert "0.2 seconds" in late.json()["message"]
        ranker.leave.set()
        assert first.result().status_code == 429
        assert client.post("/rerank", json=BODY).status_code == 200
    assert "늦은 질문" not in ranker.seen


@pytest.mark.parametrize("told", ["timeout=0.2", "trace=1;timeout=0.2", "timeout=0.200, x"])
def test_nothing_is_computed_for_a_caller_that_said_how_long_it_waits(ranker, told):
    late = {"query": "늦은 질문", "documents": ["문서"]}
    with TestClient(create_app(ranker)) as client, ThreadPoolExecutor() as callers:
        first = callers.submit(client.post, "/invocations", json=GATED)
        assert ranker.entered.wait(timeout=10)
        refused = client.post("/invocations", json=late, headers={"x-amzn-sagemaker-custom-attributes": told})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        assert "0.2 seconds" in refused.json()["message"]
        ranker.leave.set()
        assert first.result().status_code == 200, "the others' time is as long as it was"
    assert "늦은 질문" not in ranker.seen


@pytest.mark.parametrize("told", ["timeout=600", "timeout=", "timeout=-1", "timeout=soon", "xtimeout=0.000001", "c"])
def test_what_a_caller_says_only_ever_shortens_its_time(ranker, told):
    ranker.leave.set()
    with TestClient(create_app(ranker, ServingOptions(request_timeout_seconds=50))) as client:
        assert client.post("/invocations", json=BODY, headers={"x-amzn-sagemaker-custom-attributes": told}).status_code == 200


def test_bodies_of_waiting_requests_are_bounded_together(ranker):
    options = ServingOptions(max_body_bytes=30_000, max_waiting_bytes=40_000)
    large = {"query": "큰 질문", "documents": ["x" * 25_000]}
    with TestClient(create_app(ranker, options)) as client, ThreadPoolExecutor() as callers:
        first = callers.submit(client.post, "/rerank", json=GATED | {"documents": ["x" * 25_000]})
        assert ranker.entered.wait(timeout=10)
        refused = client.post("/rerank", json=large)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        ranker.leave.set()
        assert first.result().status_code == 200
        assert client.post("/rerank", json=large).status_code == 200


def test_a_body_that_is_alone_is_let_in_up_to_its_own_limit(ranker):
    with TestClient(create_app(ranker, ServingOptions(max_waiting_bytes=1))) as client:
        assert client.post("/rerank", json=BODY).status_code == 200


def test_a_crowd_is_sent_away_before_its_bodies_are_read(ranker):
    with TestClient(create_app(ranker, ServingOptions(max_waiting=0))) as client, ThreadPoolExecutor() as callers:
        first = callers.submit(client.post, "/rerank", json=GATED)
        assert ranker.entered.wait(timeout=10)
        read = []
        refused = client.post("/rerank", content=(read.append(1) or b"{}" for _ in range(1)), headers={"content-length": "2"})
        assert refused.status_code == 429
        assert client.get("/ping").status_code == 200
        ranker.leave.set()
        assert first.result().status_code == 200


def test_a_full_queue_sends_away_before_anything_is_tokenised():
    ranker = Gated(max_queue_tokens=5)
    with TestClient(create_app(ranker)) as client, ThreadPoolExecutor() as callers:
        assert client.post("/rerank", json=BODY).status_code == 200, "it tells how many tokens a character makes"
        first = callers.submit(client.post, "/rerank", json=GATED)
        assert ranker.entered.wait(timeout=10)
        second = callers.submit(client.post, "/rerank", json=BODY)
        wait_for(lambda: ranker.engine.waiting[1] >= 5, "the second's arrival in the queue")
        calls = len(ranker.calls)
        refused = client.post("/rerank", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert len(ranker.calls) == calls
        ranker.leave.set()
        assert first.result().status_code == second.result().status_code == 200


def test_metrics_say_how_much_and_how_long(ranker):
    with TestClient(create_app(ranker)) as client:
        client.post("/rerank", json=BODY)
        client.post("/rerank", json={"query": "질문", "documents": []})
        client.get("/nowhere")
        scrape = client.get("/metrics")
    assert scrape.headers["content-type"].startswith("text/plain")
    seen = figures(scrape.text)
    assert seen["ko_reranker_requests_total", "none", "200"] == 1
    assert seen["ko_reranker_requests_total", "validation", "422"] == 1
    assert seen["ko_reranker_requests_total", "not_found", "404"] == 1
    assert seen["ko_reranker_documents_total",] == 3
    assert seen["ko_reranker_blank_total",] == 1
    assert seen["ko_reranker_truncated_total",] == 1
    assert seen["ko_reranker_tokens_total",] == 25
    assert seen["ko_reranker_requests_in_progress",] == 0
    assert all(seen["ko_reranker_phase_seconds_count", phase] == 1 for phase in PHASES)
    parts = sum(seen["ko_reranker_phase_seconds_sum", phase] for phase in PHASES if phase != "total")
    assert 0 < parts <= seen["ko_reranker_phase_seconds_sum", "total"]


def test_metrics_speak_open_metrics_to_a_scraper_that_asks_for_it(ranker):
    with TestClient(create_app(ranker)) as client:
        scrape = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert scrape.headers["content-type"].startswith("application/openmetrics-text")
    assert scrape.text.endswith("# EOF\n")
    assert 'model="gated"' in scrape.text


def test_metrics_of_batches_give_the_share_of_padding(ranker):
    metrics = Metrics()
    with TestClient(create_app(ranker, metrics=metrics)) as client:
        metrics.batch(sequences=2, tokens=90, computed_tokens=100, seconds=0.5)
        metrics.batch(sequences=1, tokens=300, computed_tokens=300, seconds=0.5)
        seen = figures(client.get("/metrics").text)
    assert seen["ko_reranker_batch_tokens_sum",] / seen["ko_reranker_computed_tokens_total",] == 390 / 400
    assert seen["ko_reranker_batch_tokens_bucket", "128.0"] == 1
    assert seen["ko_reranker_batch_tokens_count",] == 2
    assert seen["ko_reranker_sequences_total",] == 3
    assert seen["ko_reranker_batch_seconds_total",] == 1


def test_two_servers_in_one_process_count_apart(ranker):
    with TestClient(create_app(ranker)) as one, TestClient(create_app(Gated())) as other:
        one.post("/rerank", json=BODY)
        assert figures(other.get("/metrics").text)["ko_reranker_documents_total",] == 0


def test_a_log_line_tells_the_phases_apart(ranker, caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    with TestClient(create_app(ranker)) as client:
        client.post("/rerank", json=BODY)
    line = next(json.loads(JsonLines().format(record)) for record in caplog.records if record.message == "rerank")
    assert set(line["phases"]) == set(PHASES) - {"total"}
    assert sum(line["phases"].values()) <= line["milliseconds"] + 0.5
