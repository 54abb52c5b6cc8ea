"""Our LangChain compressor and LlamaIndex postprocessor: sync and async alike, nothing lost but what ranks low."""

from __future__ import annotations

import asyncio

import pytest
from conftest import DOCUMENTS, QUERY
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from ko_reranker.client import AuthenticationError
from ko_reranker.client.langchain import KoReranker as LangChainReranker
from ko_reranker.client.llamaindex import KoReranker as LlamaIndexReranker


def documents() -> list[Document]:
    return [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]


@pytest.mark.parametrize(("order", "places"), [("relevance", [0, 1, 2]), ("lost_in_the_middle", [0, 2, 1])])
def test_langchain(url, key, expected, scores, order, places):
    reranker = LangChainReranker(base_url=url, api_key=key, top_n=None, order=order)
    found = reranker.compress_documents(documents(), QUERY)
    assert [document.metadata["place"] for document in found] == [expected[place] for place in places]
    assert found[0].metadata["relevance_score"] == pytest.approx(scores[expected[0]], abs=1e-6)
    assert asyncio.run(reranker.acompress_documents(documents(), QUERY)) == found
    assert reranker.compress_documents([], QUERY) == asyncio.run(reranker.acompress_documents([], QUERY)) == []
    assert key not in repr(reranker)


@pytest.mark.parametrize(("order", "places"), [("relevance", [0, 1, 2]), ("lost_in_the_middle", [0, 2, 1])])
def test_llamaindex(url, key, expected, scores, order, places):
    reranker = LlamaIndexReranker(base_url=url, api_key=key, top_n=None, order=order)
    found = reranker.postprocess_nodes(nodes(), query_str=QUERY)
    assert [node.text for node in found] == [DOCUMENTS[expected[place]] for place in places]
    assert found[0].score == pytest.approx(scores[expected[0]], abs=1e-6)
    again = asyncio.run(reranker.apostprocess_nodes(nodes(), query_str=QUERY))
    assert [node.text for node in again] == [node.text for node in found]
    assert reranker.postprocess_nodes([], query_str=QUERY) == []
    assert key not in repr(reranker)


def test_a_node_postprocessor_without_a_query_says_what_to_do(url, key):
    with pytest.raises(ValueError, match="query_str"):
        LlamaIndexReranker(base_url=url, api_key=key).postprocess_nodes(nodes())


def test_a_wrong_key_is_an_error_of_its_own(url):
    with pytest.raises(AuthenticationError):
        LangChainReranker(base_url=url, api_key="w" * 30).compress_documents(documents(), QUERY)
