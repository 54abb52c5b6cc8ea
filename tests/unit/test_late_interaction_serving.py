"""A late-interaction model behind the API: scores of 0 to 1, raw ones of its own scale, vectors kept between requests."""

from __future__ import annotations

import re

import numpy as np
import pytest
from late_interaction_models import DOCUMENTS, QUERY, ours
from starlette.testclient import TestClient

from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.serving import Metrics, create_app

BODY = {"query": QUERY, "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ours("xlm-roberta", tmp_path_factory.mktemp("model"), reduce="sum")


def results(answer) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [item["relevance_score"] for item in sorted(answer.json()["results"], key=lambda item: item["index"])]


def test_scores_are_zero_to_one_and_raw_ones_are_maxsim(folder):
    ranker = load_ranker(folder)
    scored = ranker.score_detailed(QUERY, DOCUMENTS)
    with TestClient(create_app(ranker)) as client:
        usual, raw = client.post("/v2/rerank", json=BODY), client.post("/v2/rerank", json=BODY | {"raw_scores": True})
        info = client.get("/info").json()
        logits = client.post("/invocations", json={"format": "logits"} | BODY).json()
    read = [index for index, document in enumerate(DOCUMENTS) if document]
    np.testing.assert_allclose(np.array(results(usual))[read], 1 / (1 + np.exp(-scored.logits[read])), rtol=1e-4)
    np.testing.assert_allclose(np.array(results(raw))[read], scored.raw[read], rtol=1e-5)
    assert results(usual)[2] == 0 and results(raw)[2] < -len(QUERY), "a blank document is last"
    assert "scale" not in usual.json()["meta"] and raw.json()["meta"]["scale"] == info["raw_scale"] == "maxsim_sum"
    assert [item["index"] for item in usual.json()["results"]] == [item["index"] for item in raw.json()["results"]]
    assert logits["raw_scale"] == "maxsim_sum" and len(logits["raw"]) == len(DOCUMENTS)


def test_nims_logit_is_the_calibrated_one_unless_raw_scores_are_asked_for(folder):
    ranker = load_ranker(folder)
    scored = ranker.score_detailed(QUERY, DOCUMENTS[:2])
    body = {"query": {"text": QUERY}, "passages": [{"text": document} for document in DOCUMENTS[:2]]}
    with TestClient(create_app(ranker)) as client:
        for asked, wanted in (({}, scored.logits), ({"raw_scores": True}, scored.raw)):
            rankings = client.post("/v1/ranking", json=body | asked).json()["rankings"]
            found = [item["logit"] for item in sorted(rankings, key=lambda item: item["index"])]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_what_comes_again_is_answered_from_the_cache_and_the_metrics_tell(folder):
    metrics = Metrics()
    ranker = load_ranker(folder, EngineOptions(vector_cache_bytes=1_000_000), observer=metrics)
    with TestClient(create_app(ranker, metrics=metrics)) as client:
        before = counted(client)
        first, between = client.post("/v2/rerank", json=BODY), counted(client)
        again, after = client.post("/v2/rerank", json=BODY), counted(client)
    read = sum(map(bool, DOCUMENTS))
    assert results(first) == results(again)
    assert again.json()["usage"]["total_tokens"] < first.json()["usage"]["total_tokens"]
    assert (between["misses_total"] - before["misses_total"], between["hits_total"] - before["hits_total"]) == (read, 0)
    assert (after["misses_total"] - between["misses_total"], after["hits_total"] - between["hits_total"]) == (0, read)
    assert 0 < between["bytes"] == after["bytes"] <= 1_000_000


def test_a_ranker_that_keeps_no_vectors_counts_none(folder):
    with TestClient(create_app(load_ranker("sample:tiny"))) as client:
        assert set(counted(client).values()) == {0}


def counted(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^ko_reranker_vector_cache_(\w+) (\S+)$", lines, re.MULTILINE)}
