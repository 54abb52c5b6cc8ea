"""The two ends of the request path together: whoever renders it, the answer is the same."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.serving import create_app

FOLDER = Path(__file__).parents[2] / "lambda" / "rerank"
QUERY = "서울의 인구는?"
DOCUMENTS = ["부산은 항구다.", "", "서울의 인구는 940만 명이다.", {"title": "서울", "text": "수도이다."}, "\ud83d\x00"]


class Hashed(StubRanker):
    """A ranker whose logits use every digit of a float32."""

    max_length = 12
    model_id = "hashed"

    def logit(self, query: str, document: str) -> float:
        return np.random.default_rng(sum(map(ord, query + document))).normal() * 6


class Interacting(Hashed):
    """One with raw scores of its own."""

    raw_scale = "maxsim_mean"

    def rounds(self, query, documents, **options):
        scored = yield from super().rounds(query, documents, **options)
        return replace(scored, raw=(scored.logits + 10) / 20)


class Loopback:
    """In the place of the runtime client, and of SageMaker behind it: the container's app itself."""

    def __init__(self, container: TestClient) -> None:
        self._container = container

    def invoke(self, endpoint: str, body: bytes, inference_id: str, seconds: float, on_call: Callable[[], None]) -> bytes:
        on_call()
        headers = {"content-type": "application/json", "x-amzn-sagemaker-inference-id": inference_id}
        answer = self._container.post("/invocations", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.content


@pytest.mark.parametrize(
    "body",
    [
        {"query": QUERY, "documents": DOCUMENTS},
        {"query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": True, "model": "mine"},
        {"query": QUERY, "documents": DOCUMENTS, "top_k": 3, "return_documents": True},
        {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True},
        {"query": QUERY, "texts": DOCUMENTS[:3], "return_text": True},
        {"inputs": [{"text": QUERY, "text_pair": "가"}, {"text": "다른 질문", "text_pair": "나"}]},
        {"query": {"text": QUERY}, "passages": [{"text": "가"}, {"text": "나"}]},
        {"query": QUERY, "input": DOCUMENTS, "return_input": True, "top_k": 2},
        {"text_1": QUERY, "text_2": ["가", "나"]},
        {"queries": [{"textQuery": {"text": QUERY}}], "sources": [{"inlineDocumentSource": {"textDocument": {"text": "가"}}}]},
        {"inputs": [QUERY, QUERY], "docs": ["가", "나"]},
        {"query": QUERY, "documents": DOCUMENTS, "order": "lost_in_the_middle"},
    ],
)
@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank"])
@pytest.mark.parametrize("ranker", [Hashed, Interacting])
def test_the_lambda_and_the_container_answer_alike(body, path, ranker, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    reranking, model_endpoint = importlib.import_module("reranking"), importlib.import_module("model_endpoint")
    with TestClient(create_app(ranker())) as container:
        event = {
            "httpMethod": "POST",
            "path": path,
            "body": json.dumps(body),
            "requestContext": {"requestId": "abc-1"},
        }
        endpoint = model_endpoint.ModelEndpoint("live", Loopback(container), documents_per_call=2)
        public = reranking.answer(event, endpoint, reranking.Settings("live"))
        own = container.post(path, content=json.dumps(body), headers={"x-request-id": "abc-1"})
    assert public["statusCode"] == own.status_code == 200
    assert _timeless(json.loads(public["body"])) == _timeless(own.json())


def _timeless(answer: dict | list) -> dict | list:
    return {name: value for name, value in answer.items() if name != "created"} if isinstance(answer, dict) else answer
