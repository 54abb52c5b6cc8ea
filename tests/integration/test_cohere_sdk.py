"""The Cohere SDK, unmodified: only the URL and the key change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cohere
import pytest
from serving_process import Server, serving

from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.samples import tiny_model

QUERY = "어텐션 마스크는 무엇을 하나요?"
DOCUMENTS = [
    "부산은 바다를 낀 항구 도시입니다.",
    "어텐션 마스크는 모델이 채움 토큰을 보지 않게 합니다.",
    "김치찌개에는 돼지고기와 두부를 넣습니다.",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ml")
    tiny_model.build(folder / "model")
    return folder


@pytest.fixture(scope="module")
def server(base, tmp_path_factory) -> Server:
    with serving(base, tmp_path_factory.mktemp("log") / "serve.log", KO_RERANKER_MODEL_NAME="tiny") as server:
        yield server


@pytest.fixture(scope="module")
def expected(base) -> list[int]:
    """What the model itself says, without any server."""
    logits = load_ranker(base / "model", EngineOptions(dtype="fp32")).score(QUERY, DOCUMENTS)
    return sorted(range(len(DOCUMENTS)), key=lambda index: -logits[index])


@pytest.fixture
def v2(server):
    return cohere.ClientV2(api_key="any", base_url=server.url, client_name="test")


@pytest.fixture
def v1(server):
    return cohere.Client(api_key="any", base_url=server.url, client_name="test")


def test_v2_ranks(v2, expected):
    answer = v2.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert isinstance(answer, cohere.V2RerankResponse)
    assert [item.index for item in answer.results] == expected[:2]
    scores = [item.relevance_score for item in answer.results]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    assert answer.id and answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens > 0 and answer.meta.warnings == []


def test_v1_ranks_and_returns_documents_of_every_form(v1, expected):
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, {"text": DOCUMENTS[2], "source": "cookbook"}]
    answer = v1.rerank(model="rerank-multilingual-v3.0", query=QUERY, documents=documents, return_documents=True)
    assert isinstance(answer, cohere.RerankResponse)
    assert [item.index for item in answer.results] == expected
    assert [item.document.text for item in answer.results] == [DOCUMENTS[index] for index in expected]
    assert answer.meta.api_version.version == "1"


def test_v1_ranks_by_the_fields_it_is_told(v1):
    documents = [{"title": "부산", "body": "항구"}, {"title": "서울", "body": "수도"}]
    answer = v1.rerank(query=QUERY, documents=documents, rank_fields=["title"], return_documents=True)
    assert sorted(item.document.text for item in answer.results) == ["title: 부산", "title: 서울"]


def test_async_clients_rank(server, expected):
    async def both() -> list[list[int]]:
        clients = (
            cohere.AsyncClientV2(api_key="any", base_url=server.url, client_name="test"),
            cohere.AsyncClient(api_key="any", base_url=server.url, client_name="test"),
        )
        answers = [await client.rerank(model="m", query=QUERY, documents=DOCUMENTS) for client in clients]
        return [[item.index for item in answer.results] for answer in answers]

    assert asyncio.run(both()) == [expected, expected]


def test_a_long_document_is_ranked_with_a_warning(v2):
    answer = v2.rerank(model="m", query=QUERY, documents=["긴 문서 " * 2000, *DOCUMENTS])
    assert len(answer.results) == 4
    assert "index 0" in answer.meta.warnings[0]


def test_a_refusal_is_the_sdks_own_typed_error(v2):
    with pytest.raises(cohere.UnprocessableEntityError) as caught:
        v2.rerank(model="m", query=QUERY, documents=[])
    assert caught.value.body["message"].startswith("documents: ")
