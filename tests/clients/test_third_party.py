"""Clients of others, unmodified: URL and key change, nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import boto3
import cohere
import httpx
import litellm
import mixedbread
import pytest
import voyageai
from conftest import DOCUMENTS, QUERY
from haystack import Document as HaystackDocument
from haystack.components.rankers.hugging_face_tei import HuggingFaceTEIRanker
from haystack.utils import Secret
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohereRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from rerankers.models.api_rankers import APIRanker

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


def texts(expected: list[int]) -> list[str]:
    return [DOCUMENTS[index] for index in expected]


def test_cohere(url, key, expected, scores):
    for client in (cohere.ClientV2(key, base_url=url), cohere.Client(key, base_url=url)):
        answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
        assert [item.index for item in answer.results] == expected
        assert answer.results[0].relevance_score == pytest.approx(scores[expected[0]], abs=1e-6)


def test_cohere_async(url, key, expected):
    async def ask() -> list[list[int]]:
        clients = cohere.AsyncClientV2(key, base_url=url), cohere.AsyncClient(key, base_url=url)
        answers = [await client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS) for client in clients]
        return [[item.index for item in answer.results] for answer in answers]

    assert asyncio.run(ask()) == [expected, expected]


def test_langchain_cohere(url, key, expected):
    compressor = CohereRerank(cohere_api_key=key, base_url=url, model="rerank-v3.5", top_n=2)
    found = compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    assert [document.page_content for document in found] == texts(expected)[:2]


def test_llama_index_cohere(url, key, expected):
    postprocessor = LlamaCohereRerank(api_key=key, base_url=url, model="rerank-v3.5", top_n=2)
    found = postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    assert [node.text for node in found] == texts(expected)[:2]


def test_llama_index_tei(url, key, expected):
    postprocessor = TextEmbeddingInference(base_url=url, auth_token=f"Bearer {key}", top_n=3)
    assert [node.text for node in postprocessor.postprocess_nodes(nodes(), query_str=QUERY)] == texts(expected)


def test_haystack_tei(url, key, expected):
    ranker = HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), top_k=2)
    found = ranker.run(query=QUERY, documents=[HaystackDocument(content=text) for text in DOCUMENTS])
    assert [document.content for document in found["documents"]] == texts(expected)[:2]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", ""),
        ("jina_ai", ""),
        ("jina_ai", "/v1"),
        ("hosted_vllm", ""),
        ("huggingface", ""),
        ("voyage", ""),
        ("voyage", "/v1"),
        ("infinity", ""),
        ("infinity", "/infinity"),
    ],
)
def test_litellm(url, key, expected, provider, path, asynchronous):
    asked = {"model": f"{provider}/any", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    asked |= {"api_key": key, "api_base": url + path, "return_documents": (provider, path) != ("infinity", "")}
    answer = asyncio.run(litellm.arerank(**asked)) if asynchronous else litellm.rerank(**asked)
    assert [item["index"] for item in answer.results] == expected
    if asked["return_documents"]:
        assert [item["document"]["text"] for item in answer.results] == texts(expected)


def test_voyageai(url, key, expected, scores):
    answer = voyageai.Client(api_key=key, base_url=f"{url}/v1").rerank(QUERY, DOCUMENTS, model="rerank-2", top_k=2)
    assert [item.index for item in answer.results] == expected[:2]
    assert answer.results[0].document == DOCUMENTS[expected[0]]
    assert answer.results[0].relevance_score == pytest.approx(scores[expected[0]], abs=1e-6)


def test_mixedbread(url, key, expected):
    client = mixedbread.Mixedbread(api_key=key, base_url=url)
    answer = client.rerank(model="any", query=QUERY, input=DOCUMENTS, top_k=2, return_input=True)
    assert [item.index for item in answer.data] == expected[:2]
    assert answer.data[0].input == DOCUMENTS[expected[0]]


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("cohere", "/v1/rerank"),
        ("jina", "/v1/rerank"),
        ("voyage", "/v1/rerank"),
        ("mixedbread.ai", "/v1/reranking"),
        ("text-embeddings-inference", "/rerank"),
    ],
)
def test_rerankers(url, key, expected, provider, path):
    ranker = APIRanker("any", key, provider, url=url + path)
    found = ranker.rank(QUERY, DOCUMENTS)
    assert [DOCUMENTS.index(result.text) for result in found.results] == expected


def test_boto3_with_the_body_of_the_model_card(scores):
    """The card's own words, and OpenSearch's for a model in SageMaker: pairs in, a label and a score for each out."""
    body = json.dumps({"inputs": [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]})
    client = boto3.client("sagemaker-runtime")
    answer = client.invoke_endpoint(EndpointName=os.environ["RERANK_ENDPOINT"], ContentType="application/json", Body=body)
    said = json.loads(answer["Body"].read())
    assert [item["score"] for item in said] == pytest.approx(scores, abs=1e-6)
    assert {item["label"] for item in said} == {"LABEL_0"}


def test_an_opensearch_connector(url, key, expected):
    """The example's request, filled in as ml-commons' functions for Cohere's rerank do."""
    [action] = json.loads((EXAMPLES / "opensearch_connector.json").read_text())["actions"]
    query = json.dumps(f'"{QUERY}"\t')[1:-1]
    given = {"query": query, "documents": json.dumps(DOCUMENTS), "top_n": str(len(DOCUMENTS))}
    body = re.sub(r"\$\{parameters\.(\w+)\}", lambda found: given[found[1]], action["request_body"])
    headers = {name: value.replace("${credential.key}", key) for name, value in action["headers"].items()}
    answer = httpx.post(action["url"].replace("https://HOST", url), content=body, headers=headers, timeout=30)
    results = answer.json()["results"]
    assert {item["index"] for item in results} == set(expected)
    assert all(isinstance(item["relevance_score"], float) for item in results)


@pytest.mark.parametrize("header", ["Authorization: {}", "Authorization: Bearer {}", "x-api-key: {}", "api-key: {}"])
def test_a_key_in_any_header(url, key, expected, header):
    name, _, value = header.format(key).partition(": ")
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": False, "model": "rerank-v3.5"}
    answer = httpx.post(f"{url}/v2/rerank", json=body, headers={name: value}, timeout=30)
    assert [item["index"] for item in answer.json()["results"]] == expected


def test_a_wrong_key_is_the_clients_own_error(url):
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2("w" * 30, base_url=url).rerank(model="m", query=QUERY, documents=DOCUMENTS)
