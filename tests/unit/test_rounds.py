"""Rankers of many rounds: whoever drives one, a test, the engine or the server, gets the same order for the same work."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.engine import Engine
from ko_reranker.rankers import Cost, Ranker, RankerError, Rankings, Scored
from ko_reranker.rankers.interface import Rounds, distinct
from ko_reranker.serving import create_app
from ko_reranker.serving.logs import JsonLines

QUERY, BACKWARDS = "큰 수는?", "작은 수를 찾아라"
NUMBERS = ["3", "14", "1", "5", "9", "2", "6"]
BODY = {"query": QUERY, "documents": NUMBERS}


@dataclass(frozen=True)
class Comparison:
    """Is the first number the one that is asked for? A character is a token."""

    query: str
    numbers: tuple[str, str]
    instruction: str | None

    def __len__(self) -> int:
        return len(self.query) + sum(map(len, self.numbers))


def compare(items: Sequence[Comparison]) -> list[float]:
    """Return 1 for each first number that wins, else 0."""

    def size(text: str) -> tuple[int, str]:  # of any text: the server warms up with words
        return len(text.strip()), text.strip()

    return [float((size(item.numbers[0]) > size(item.numbers[1])) != (item.instruction == BACKWARDS)) for item in items]


class Knockout(Ranker):
    """Compares documents two by two, all pairs of a round at once, until the best ``top_n`` are known."""

    max_length, model_id, precision, absolute = 64, "knockout", "none", False

    def __init__(self, *, batch_tokens: int = 1_000, max_queue_tokens: int | None = None) -> None:
        self.passes = 0
        self.engine = Engine(self._forward, batch_tokens=batch_tokens, max_queue_tokens=max_queue_tokens)

    def compare(self, items: Sequence[Comparison]) -> list[float]:
        return compare(items)

    def rounds(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
        top_n: int | None = None,
    ) -> Rounds:
        texts, indexes = distinct(documents)
        order, left, cost = [], list(range(len(texts))), Cost()
        tokens = np.zeros(len(texts), np.int32)
        while left and len(order) < (top_n or len(texts)):
            playing = left
            while len(playing) > 1:
                games = list(zip(playing[::2], playing[1::2], strict=False))
                items = [Comparison(query, (texts[one], texts[other]), instruction) for one, other in games]
                for (one, _), item in zip(games, items, strict=True):
                    tokens[one] += len(item)
                cost += Cost.of(items)
                results = yield items
                winners = [one if won else other for (one, other), won in zip(games, results, strict=True)]
                playing = winners + playing[2 * len(games) :]
            order += playing
            left = [index for index in left if index != playing[0]]
        order += left
        logits = np.zeros(len(texts), np.float32)
        logits[order] = [(len(texts) - place) / len(texts) for place in range(len(texts))]
        none = np.zeros(len(texts), bool)
        scored = Scored(logits, tokens, none, False, none + 1, cost, absolute=False, instructed=True)
        return scored.spread(indexes)

    def _forward(self, items: Sequence[Comparison]) -> tuple[list[float], int]:
        self.passes += 1
        return self.compare(items), sum(map(len, items))


@pytest.fixture
def ranker():
    ranker = Knockout()
    yield ranker
    ranker.close()


def test_rounds_need_nothing_but_who_sends_results(ranker):
    rankings = Rankings([ranker.rounds(QUERY, NUMBERS), ranker.rounds(QUERY, ["7"]), ranker.rounds(QUERY, NUMBERS[:2])])
    assert [scored is not None for scored in rankings.scored] == [False, True, False]
    rounds = 0
    while items := rankings.items:
        rankings.advance(compare(items))
        rounds += 1
    first, alone, pair = rankings.scored
    assert first.logits.argsort()[::-1].tolist() == [1, 4, 6, 3, 0, 5, 2]
    assert (alone.logits.tolist(), pair.logits.tolist()) == ([1.0], [0.5, 1.0])
    assert (first.cost.model_calls, alone.cost, pair.cost.model_calls) == (6 + 5 + 4 + 3 + 2 + 1, Cost(), 1)
    assert rounds == 3 + 3 + 3 + 2 + 2 + 1, "what rankings want at the same time is one round"
    assert first.tokens.sum() == first.cost.tokens


def test_a_ranking_says_what_it_took_and_top_n_spares_work(ranker):
    assert ranker.rank(QUERY, NUMBERS) == [1, 4, 6, 3, 0, 5, 2]
    assert ranker.rank(QUERY, NUMBERS, top_n=2) == [1, 4]
    assert ranker.rank(QUERY, NUMBERS, top_n=2, instruction=BACKWARDS) == [2, 5]
    assert ranker.score_detailed(QUERY, NUMBERS, top_n=1).cost.model_calls == len(NUMBERS) - 1
    assert ranker.rank(QUERY, []) == []


def test_equal_documents_tie_and_are_compared_once(ranker):
    scored = ranker.score_detailed(QUERY, ["3", "14", "3"])
    assert scored.logits.tolist() == [0.5, 1.0, 0.5]
    assert (scored.cost.model_calls, scored.tokens[2]) == (1, 0)
    assert ranker.rank(QUERY, ["3", "14", "3"]) == [1, 0, 2]


def test_places_are_not_given_out_as_scores(ranker):
    assert not ranker.score_detailed(QUERY, NUMBERS).absolute
    passes = ranker.passes
    with pytest.raises(RankerError, match="use rank"):
        ranker.score(QUERY, NUMBERS)
    with pytest.raises(RankerError, match="use rank"):
        ranker.score_pairs([(QUERY, "1"), (QUERY, "2")])
    assert ranker.passes == passes, "nothing is computed for what is refused"


def test_the_server_drives_the_rounds_and_says_that_scores_are_places(ranker, caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    cost = ranker.score_detailed(QUERY, NUMBERS).cost
    with TestClient(create_app(ranker)) as client:
        answer = client.post("/rerank", json=BODY | {"documents": [*NUMBERS, " "]}).json()
        raw = client.post("/rerank", json=BODY | {"raw_scores": True}).json()
        facts = client.post("/invocations", json={"format": "facts"}).json()
    assert [item["index"] for item in answer["results"]] == [1, 4, 6, 3, 0, 5, 2, 7]
    scores = [item["relevance_score"] for item in answer["results"]]
    assert scores == pytest.approx([*(place / 7 for place in range(7, 0, -1)), 0.0])
    assert [item["relevance_score"] for item in raw["results"]] == scores[:-1]
    assert answer["meta"]["scale"] == "rank"
    assert [warning for warning in answer["meta"]["warnings"] if "places" in warning]
    assert answer["usage"]["prompt_tokens"] == cost.tokens
    assert facts["whole"] is True
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [line["model_calls"] for line in lines if "documents" in line] == [cost.model_calls] * 2


def test_what_was_compared_and_written_is_told_with_what_went_wrong():
    class Writing(Knockout):
        def rounds(self, query: str, documents: Sequence[str], **options: int | str | None) -> Rounds:
            scored = yield from super().rounds(query, documents, **options)
            return replace(scored, cost=scored.cost + Cost(comparisons=3, output_tokens=5), warnings=("one was no order",))

    with TestClient(create_app(Writing())) as client:
        answer = client.post("/rerank", json=BODY | {"documents": NUMBERS[:3]}).json()
    read = answer["usage"]["prompt_tokens"]
    assert answer["usage"] == {"prompt_tokens": read, "completion_tokens": 5, "total_tokens": read + 5}
    assert answer["meta"]["cost"] == {"model_calls": 3, "comparisons": 3, "input_tokens": read, "output_tokens": 5}
    assert "one was no order" in answer["meta"]["warnings"]


@pytest.mark.parametrize("name", ["instruction", "instruct"])
def test_an_instruction_reaches_the_ranker(ranker, name):
    with TestClient(create_app(ranker)) as client:
        answer = client.post("/rerank", json=BODY | {name: BACKWARDS, "top_n": 2}).json()
    assert [item["index"] for item in answer["results"]] == [2, 5]
    assert not [warning for warning in answer["meta"]["warnings"] if "instruction" in warning]


def test_a_ranker_that_reads_no_instruction_says_so():
    with TestClient(create_app(StubRanker())) as client:
        (warning,) = client.post("/rerank", json=BODY | {"instruct": BACKWARDS}).json()["meta"]["warnings"]
        assert "instruction" in warning
        assert not client.post("/rerank", json=BODY).json()["meta"]["warnings"]


def test_long_documents_that_are_compared_stay_together(ranker):
    documents = [f"{number}{' ' * 300_000}" for number in NUMBERS]
    with TestClient(create_app(ranker)) as client:
        scores = [
            item["relevance_score"] for item in client.post("/rerank", json=BODY | {"documents": documents}).json()["results"]
        ]
    assert scores == pytest.approx([place / 7 for place in range(7, 0, -1)])


class Gated(Knockout):
    """Holds comparisons of one query back until the test says so."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.entered, self.leave = threading.Semaphore(0), threading.Semaphore(0)

    def compare(self, items: Sequence[Comparison]) -> list[float]:
        if any(item.query == QUERY for item in items):
            self.entered.release()
            assert self.leave.acquire(timeout=10)
        return super().compare(items)

    def wait_until_waiting(self, requests: int) -> None:
        until = time.monotonic() + 10
        while self.engine.waiting[0] < requests:
            assert time.monotonic() < until, "the requests never arrived"
            time.sleep(0.01)


def test_a_request_that_was_let_in_is_not_turned_away_between_two_rounds():
    ranker = Gated(max_queue_tokens=14, batch_tokens=10)
    bodies = [
        {"query": QUERY, "documents": documents, "top_n": 1} for documents in (["1", "2", "3" * 9], ["1", "2"], ["3", "4"])
    ]
    with TestClient(create_app(ranker)) as client, ThreadPoolExecutor() as callers:
        answers = [callers.submit(client.post, "/rerank", json=bodies[0])]
        assert ranker.entered.acquire(timeout=10)
        for waiting, body in enumerate(bodies[1:], start=1):  # they fill the queue
            answers.append(callers.submit(client.post, "/rerank", json=body))
            ranker.wait_until_waiting(waiting)
        ranker.leave.release()
        assert ranker.entered.acquire(timeout=10)  # the second request's turn, before the first one's second round
        ranker.wait_until_waiting(2)
        for _ in range(3):
            ranker.leave.release()
        assert [answer.result().status_code for answer in answers] == [200] * 3


def test_what_fails_in_a_later_round_fails_its_request_alone():
    class Faulty(Knockout):
        def compare(self, items: Sequence[Comparison]) -> list[float]:
            if any(item.numbers == ("14", "5") for item in items):
                raise RuntimeError("cannot compare these")
            return super().compare(items)

    with TestClient(create_app(Faulty()), raise_server_exceptions=False) as client:
        assert client.post("/rerank", json=BODY).status_code == 500
        assert client.get("/ping").status_code == 200
        assert client.post("/rerank", json=BODY | {"documents": ["1", "2"]}).status_code == 200
