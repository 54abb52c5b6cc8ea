"""Later releases, and NVIDIA's and Jina's clients, unmodified: URL and key change, nothing else."""

from __future__ import annotations

import cohere
import pytest
from conftest import DOCUMENTS, QUERY
from haystack import Document as HaystackDocument
from haystack.utils import Secret
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.nvidia import NvidiaRanker
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank as LlamaNVIDIARerank


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


def haystack_documents() -> list[HaystackDocument]:
    return [HaystackDocument(content=text) for text in DOCUMENTS]


def texts(expected: list[int]) -> list[str]:
    return [DOCUMENTS[index] for index in expected]


def test_cohere(url, key, expected, scores):
    for client in (cohere.ClientV2(key, base_url=url), cohere.Client(key, base_url=url)):
        answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
        assert [item.index for item in answer.results] == expected
        assert answer.results[0].relevance_score == pytest.approx(scores[expected[0]], abs=1e-6)


def test_haystack_jina(url, key, expected):
    ranker = JinaRanker(api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank", top_k=2)
    found = ranker.run(query=QUERY, documents=haystack_documents())
    assert [document.content for document in found["documents"]] == texts(expected)[:2]


@pytest.fixture
def served(url, key) -> str:
    """The name that NVIDIA's clients look for among the models, before they ask."""
    import httpx

    return httpx.get(f"{url}/v1/models", headers={"x-api-key": key}, timeout=30).json()["data"][0]["id"]


def test_haystack_nvidia(url, key, expected, served):
    ranker = NvidiaRanker(model=served, api_url=f"{url}/v1", api_key=Secret.from_token(key), top_k=2)
    ranker.warm_up()
    found = ranker.run(query=QUERY, documents=haystack_documents())
    assert [document.content for document in found["documents"]] == texts(expected)[:2]


@pytest.mark.parametrize("named", [True, False])
def test_langchain_nvidia(url, key, expected, served, named):
    ranker = NVIDIARerank(base_url=f"{url}/v1", api_key=key, top_n=2, **({"model": served} if named else {}))
    found = ranker.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in found] == texts(expected)[:2]


@pytest.mark.parametrize("named", [True, False])
def test_llama_index_nvidia(url, key, expected, served, named):
    ranker = LlamaNVIDIARerank(base_url=f"{url}/v1", api_key=key, top_n=2, **({"model": served} if named else {}))
    assert [node.text for node in ranker.postprocess_nodes(nodes(), query_str=QUERY)] == texts(expected)[:2]


def test_llama_index_jina(url, key, expected):
    ranker = JinaRerank(api_key=key, base_url=f"{url}/v1", model="any", top_n=2)
    assert [node.text for node in ranker.postprocess_nodes(nodes(), query_str=QUERY)] == texts(expected)[:2]
