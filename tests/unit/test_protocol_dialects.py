"""Every dialect that a client sends is read, and answered in its own words."""

from __future__ import annotations

import json

import pytest

from ko_reranker.protocol import (
    PUBLIC_ROUTES,
    ProtocolError,
    RerankResult,
    ServiceFacts,
    describe,
    encode_body,
    find_operation,
    parse_request,
    render_response,
)
from ko_reranker.protocol.dialects import logits
from ko_reranker.protocol.ranking import lost_in_the_middle

QUERY = "질문"
# The sigmoids of -1, 0 and 3.8944108 as they are written.
LOW, MIDDLE, HIGH = 0.26894142, 0.5, 0.98005071
VALUES = (-1.0, 0.0, 3.8944108)


def ask(body: dict, values: tuple[float, ...] = VALUES, path: str = "/v2/rerank", **facts) -> dict | list:
    count = len(values)
    result = RerankResult(values, (7,) * count, (False,) * count, "run-1", 512, "0b0c", 1_790_000_000, **facts)
    return json.loads(encode_body(render_response(parse_request(body, path), result)))


def test_nim_sends_passages_and_gets_raw_logits():
    body = {"model": "m", "query": {"text": QUERY}, "passages": [{"text": t} for t in "가나다"], "truncate": "END"}
    said = ask(body, path="/v1/retrieval/nvidia/m/reranking")
    assert said["rankings"] == [
        {"index": 2, "logit": 3.8944108},
        {"index": 1, "logit": 0.0},
        {"index": 0, "logit": -1.0},
    ]


def test_mixedbread_sends_input():
    body = {"query": QUERY, "input": ["가", {"title": "나"}, "다"], "top_k": 2, "return_input": True, "model": "mxbai"}
    said = ask(body, path="/v1/reranking")
    assert said["data"] == [
        {"index": 2, "score": HIGH, "object": "rank_result", "input": "다"},
        {"index": 1, "score": MIDDLE, "object": "rank_result", "input": {"title": "나"}},
    ]
    assert (said["object"], said["model"], said["top_k"], said["return_input"]) == ("list", "mxbai", 2, True)
    assert said["usage"]["total_tokens"] == 21


def test_bedrock_sends_sources():
    def source(text: str) -> dict:
        return {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}}

    sources = [source("가"), source("나")]
    sources.append({"type": "INLINE", "inlineDocumentSource": {"type": "JSON", "jsonDocument": {"title": "다"}}})
    configuration = {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": {"numberOfResults": 2}}
    body = {
        "queries": [{"type": "TEXT", "textQuery": {"text": QUERY}}],
        "sources": sources,
        "rerankingConfiguration": configuration,
    }
    assert ask(body) == {"results": [{"index": 2, "relevanceScore": HIGH}, {"index": 1, "relevanceScore": MIDDLE}]}
    assert parse_request(body, "/rerank").documents[2].text == "title: 다"


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": QUERY, "text_2": ["가", "나", "다"]},
        {"text_1": [QUERY], "text_2": ["가", "나", "다"]},
        {"text_1": ["하나", "둘", "셋"], "text_2": ["가", "나", "다"]},
        {"data_1": QUERY, "data_2": ["가", "나", "다"]},
        {"queries": QUERY, "documents": ["가", "나", "다"]},
    ],
)
def test_score_routes_answer_in_the_order_of_the_pairs(body):
    said = ask(body, path="/v1/score")
    assert said["data"] == [
        {"index": index, "object": "score", "score": score} for index, score in enumerate((LOW, MIDDLE, HIGH))
    ]
    assert said["usage"]["total_tokens"] == 21


def test_pairs_of_a_score_keep_their_own_queries():
    request = parse_request({"text_1": ["하나", "둘"], "text_2": ["가", "나"]}, "/score")
    assert [request.query_of(0), request.query_of(1)] == ["하나", "둘"]


def test_dify_sends_the_query_once_for_every_document():
    assert ask({"inputs": [QUERY] * 3, "docs": ["가", "나", "다"]}) == {"scores": [LOW, MIDDLE, HIGH]}


def test_pairs_may_be_lists():
    said = ask({"inputs": [[QUERY, "가"], [QUERY, "나"], [QUERY, "다"]]})
    assert [item["score"] for item in said] == [LOW, MIDDLE, HIGH]


def test_under_infinity_documents_are_plain_strings():
    body = {"query": QUERY, "documents": ["가", "나", "다"], "return_documents": True, "top_n": 1}
    said = ask(body, path="/infinity/rerank")
    assert (said["object"], said["results"][0]["document"]) == ("rerank", "다")


@pytest.mark.parametrize(
    ("field", "value", "object_", "document"),
    [("top_k", 1, "list", "가"), ("truncation", True, "list", "가"), ("top_n", 1, "rerank", {"text": "가", "id": 7})],
)
def test_voyage_style_callers_get_a_list_of_plain_documents(field, value, object_, document):
    body = {"query": QUERY, "documents": [{"text": "가", "id": 7}], "return_documents": True, field: value}
    said = ask(body, (1.0,), path="/v1/rerank")
    assert (said["object"], said["results"][0]["document"]) == (object_, document)
    assert said["data"] == said["results"]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ({"query": QUERY, "texts": ["가"], "raw_scores": True}, lambda said: said[0]["score"]),
        ({"query": QUERY, "input": ["가"], "raw_scores": True}, lambda said: said["data"][0]["score"]),
        ({"query": QUERY, "documents": ["가"], "raw_scores": True}, lambda said: said["results"][0]["relevance_score"]),
        ({"text_1": QUERY, "text_2": ["가"], "raw_scores": True}, lambda said: said["data"][0]["score"]),
        ({"inputs": [[QUERY, "가"]], "parameters": {"function_to_apply": "none"}}, lambda said: said[0]["score"]),
    ],
)
def test_raw_logits_come_on_demand(body, read):
    assert read(ask(body, (-11.25,))) == -11.25


def test_the_best_stand_at_both_ends_where_that_is_asked():
    assert lost_in_the_middle([1, 2, 3, 4, 5, 6]) == [1, 3, 5, 6, 4, 2]
    values = (5.0, 4.0, 3.0, 2.0, 1.0)
    body = {"query": QUERY, "documents": list("가나다라마"), "order": "lost_in_the_middle", "top_n": 4}
    assert [item["index"] for item in ask(body, values)["results"]] == [0, 2, 3, 1]
    texts = {"query": QUERY, "texts": list("가나다라마"), "order": "lost_in_the_middle"}
    assert [item["index"] for item in ask(texts, values)] == [0, 2, 4, 3, 1]


def test_what_is_asked_of_the_scoring_reaches_the_container():
    body = {"query": QUERY, "documents": ["가"], "max_tokens_per_doc": "128", "max_chunks_per_doc": 3, "instruction": "찾아라"}
    request = parse_request(body, "/v2/rerank")
    options = {"max_tokens_per_doc": 128, "max_chunks_per_doc": 3, "instruction": "찾아라"}
    assert request.scoring_options() == options
    assert parse_request(logits.encode_request(request), "/invocations").scoring_options() == options
    assert parse_request({"query": QUERY, "documents": ["가"]}, "/v2/rerank").scoring_options() == {}


def test_a_document_read_in_pieces_is_a_warning():
    said = ask({"query": QUERY, "documents": ["가", "나", "다"]}, chunks=(1, 4, 1))
    assert said["meta"]["warnings"] == ["read in several chunks, of which the best counts: 1 of 3 documents (index 1)"]


def test_parts_are_joined_in_order():
    one = RerankResult((1.0,), (7,), (True,), "run-1", 512)
    other = RerankResult((2.0, 3.0), (8, 9), (False, False), "run-1", 512, query_truncated=True, chunks=(1, 2))
    joined = RerankResult.joined([one, other])
    assert (joined.logits, joined.tokens, joined.truncated) == ((1.0, 2.0, 3.0), (7, 8, 9), (True, False, False))
    assert (joined.chunks, joined.query_truncated) == ((1, 1, 2), True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": QUERY, "passages": []}, "passages"),
        ({"query": QUERY, "input": [5]}, "input[0]"),
        ({"queries": [], "sources": ["가"]}, "queries"),
        ({"queries": [{"textQuery": {"text": ""}}], "sources": ["가"]}, "queries[0].textQuery"),
        ({"queries": [QUERY], "sources": []}, "sources"),
        ({"queries": [QUERY], "sources": "가"}, "sources"),
        ({"queries": [QUERY], "sources": [{"inlineDocumentSource": "가"}]}, "sources[0].inlineDocumentSource"),
        ({"queries": [QUERY], "sources": [{"inlineDocumentSource": {"type": "TEXT"}}]}, "sources[0].inlineDocumentSource"),
        ({"queries": [QUERY], "sources": ["가"], "rerankingConfiguration": 5}, "rerankingConfiguration"),
        ({"text_1": ["가", "나"], "text_2": ["다", "라", "마"]}, "text_1"),
        ({"text_1": QUERY}, "text_2"),
        ({"inputs": [QUERY, QUERY], "docs": ["가"]}, "inputs"),
        ({"query": QUERY, "documents": ["가"], "order": "random"}, "order"),
        ({"query": QUERY, "documents": ["가"], "max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"query": "\u3000\ufeff", "documents": ["가"]}, "query"),
    ],
)
def test_a_wrong_field_is_named_in_every_dialect(body, param):
    with pytest.raises(ProtocolError) as caught:
        parse_request(body, "/v2/rerank")
    assert (caught.value.status, caught.value.param) == (422, param)


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("POST", "/reranks", "rerank"),
        ("POST", "/v1/reranking", "rerank"),
        ("POST", "/v1/ranking", "rerank"),
        ("POST", "/v1/retrieval/nvidia/llama-3.2/reranking", "rerank"),
        ("POST", "/infinity/rerank", "rerank"),
        ("POST", "/score", "rerank"),
        ("GET", "/infinity/models", "models"),
        ("GET", "/v1/models", "models"),
        ("GET", "/info", "info"),
        ("GET", "/openapi.json", "openapi"),
    ],
)
def test_every_route_of_the_contract_is_there(method, path, operation):
    assert find_operation(PUBLIC_ROUTES, method, path) == operation


def test_info_and_models_tell_what_is_served():
    facts = ServiceFacts("run-1", 512, 1000)
    info = describe("info", facts)
    assert "reranker" in info["model_type"]
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("run-1", 512, 1000)
    assert describe("models", facts)["data"][0]["id"] == "run-1"
