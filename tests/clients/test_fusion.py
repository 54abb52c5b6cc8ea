"""The wrappers order by the retriever's score and the model's together, when they are told to."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from ko_reranker.client import RerankClient, fuse
from ko_reranker.client.langchain import KoReranker as LangChainReranker
from ko_reranker.client.llamaindex import KoReranker as LlamaIndexReranker

QUERY = "어텐션 마스크는 무엇을 하나요?"
PASSAGES = ["부산은 항구다.", "어텐션 마스크는 채움 토큰을 가린다.", "김치찌개에는 두부를 넣는다."]
FIRST_STAGE = [3.0, 2.0, 11.0]


@pytest.fixture
def expected(url: str, key: str) -> list[str]:
    with RerankClient(url, key) as client:
        logits = {item.index: item.score for item in client.rerank(QUERY, PASSAGES, raw_scores=True)}
    fused = fuse(FIRST_STAGE, [logits[place] for place in range(3)], weight=0.7)
    return [PASSAGES[place] for place in sorted(range(3), key=lambda place: -fused[place])]


def test_langchain(url: str, key: str, expected: list[str]) -> None:
    reranker = LangChainReranker(base_url=url, api_key=key, first_stage_weight=0.7, first_stage_key="bm25", top_n=2)
    documents = [
        Document(page_content=text, metadata={"bm25": score}) for text, score in zip(PASSAGES, FIRST_STAGE, strict=True)
    ]
    found = reranker.compress_documents(documents, QUERY)
    assert [document.page_content for document in found] == expected[:2]
    assert all(0 <= document.metadata["relevance_score"] <= 1 for document in found)
    again = asyncio.run(reranker.acompress_documents(documents, QUERY))
    assert [document.page_content for document in again] == expected[:2]
    with pytest.raises(ValueError, match=r"document 0 has no metadata\['bm25'\]"):
        reranker.compress_documents([Document(page_content="글")], QUERY)


def test_llamaindex(url: str, key: str, expected: list[str]) -> None:
    reranker = LlamaIndexReranker(base_url=url, api_key=key, first_stage_weight=0.7, top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text), score=score) for text, score in zip(PASSAGES, FIRST_STAGE, strict=True)]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.text for node in found] == expected[:2]
    with pytest.raises(ValueError, match="node 0 has no score"):
        reranker.postprocess_nodes([NodeWithScore(node=TextNode(text="글"))], query_str=QUERY)
