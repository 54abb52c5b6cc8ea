"""The server for a long time, and under siege. Minutes long: `make test-slow`."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_process import Server, serving

from benchmarks.siege import besiege
from ko_reranker.samples import tiny_model

pytestmark = pytest.mark.slow

REQUESTS, WARM_UP, CLIENTS = 20_000, 4_000, 4
LIMIT_SECONDS = 12
WORDS = ["서울", "인구", "도시", "항구", "함수", "컴파일러", "수도", "환불", "배송", "문서", "window", "compiler", "값", "형식"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ml")
    tiny_model.build(folder / "model")
    return folder


def figures(server: Server) -> dict[str, float]:
    """Return the samples of /metrics that have no labels, by name."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def varied(draw: random.Random) -> bytes:
    """Return a body of any shape that the server knows, now and then of none."""
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 60))) for _ in range(draw.randint(1, 6))]
    query = " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))
    shapes = [
        {"query": query, "documents": texts},
        {"query": query, "documents": [{"title": text[:9], "text": text} for text in texts], "return_documents": True},
        {"query": query, "texts": texts, "raw_scores": True},
        {"query": {"text": query}, "passages": [{"text": text} for text in texts]},
        {"inputs": [{"text": query, "text_pair": text} for text in texts]},
        {"query": query, "documents": [text * draw.randint(1, 30) for text in texts[:2]], "max_chunks_per_doc": 2},
        {"query": query, "documents": []},
    ]
    body = json.dumps(draw.choice(shapes), ensure_ascii=draw.random() < 0.5).encode()
    return body if draw.random() > 0.02 else body[: len(body) // 2]


def test_memory_stays_where_it_is_after_twenty_thousand_varied_requests(base, tmp_path):
    with serving(base, tmp_path / "log") as server:
        host, statuses, memory = server.url.removeprefix("http://"), set(), {}

        def client(seed: int, requests: int) -> None:
            draw, connection = random.Random(seed), HTTPConnection(host, timeout=60)
            for _ in range(requests):
                connection.request("POST", "/invocations", varied(draw), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                statuses.add(answer.status)

        for stage, requests in (("warm", WARM_UP), ("end", REQUESTS - WARM_UP)):
            seeds = range(CLIENTS * len(memory), CLIENTS * len(memory) + CLIENTS)
            threads = [threading.Thread(target=client, args=(seed, requests // CLIENTS)) for seed in seeds]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            memory[stage] = figures(server)["process_resident_memory_bytes"]
    assert statuses == {200, 400, 422}
    assert memory["end"] < 1.1 * memory["warm"], {stage: f"{size / 1e6:.0f} MB" for stage, size in memory.items()}


def test_a_siege_holds_no_normal_request_up(base, tmp_path):
    texts = [f"서울의 인구는 약 {number}만 명이다. " * 3 for number in range(50)]
    bodies = [{"query": "서울의 인구는?", "documents": [text] * (number % 5 + 1)} for number, text in enumerate(texts)]
    # More hostile senders than there are places for connections, and than requests that may wait.
    limits = {"KO_RERANKER_REQUEST_TIMEOUT": str(LIMIT_SECONDS), "KO_RERANKER_MAX_CONNECTIONS": "400"}
    with serving(base, tmp_path / "log", **limits) as server:
        outcome = asyncio.run(besiege(int(server.url.rpartition(":")[2]), bodies, seconds=60))
        assert set(outcome.statuses) == {200}, outcome.statuses
        assert len(outcome.latencies) > 100
        assert max(outcome.latencies) < LIMIT_SECONDS
        assert set(outcome.greedy) <= {0, 200, 429}, outcome.greedy
        # The longest that a silent, stalled or trickling sender has; the rest is the machine's.
        assert max(outcome.lifetimes) < LIMIT_SECONDS + 10
        wait_until(lambda: figures(server)["ko_reranker_requests_in_progress"] == 0, "all places to be free")
        assert figures(server)["ko_reranker_waiting_tokens"] == 0
        with urllib.request.urlopen(f"{server.url}/ping", timeout=10) as answer:
            assert answer.status == 200
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        assert time.monotonic() - started < 15
    requests = len(outcome.latencies) + sum(outcome.greedy.values()) + len(outcome.lifetimes)
    assert len((tmp_path / "log").read_text().splitlines()) < 100 + 2 * requests, "a line or two for what happened"


def wait_until(condition, what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")
