"""What every client gets back."""

from __future__ import annotations

import json
import math

import pytest

from ko_reranker.protocol import BLANK_LOGIT, RerankResult, encode_body, parse_request, render_response
from ko_reranker.protocol.dialects import cohere, logits
from ko_reranker.protocol.ranking import sigmoid, written

QUERY = "질문"


def result(values: list[float], truncated: set[int] = frozenset(), tokens: int = 14) -> RerankResult:
    return RerankResult(
        logits=tuple(values),
        tokens=(tokens,) * len(values),
        truncated=tuple(index in truncated for index in range(len(values))),
        model="models/run-1",
        max_length=512,
        id="0b0c",
        created=1_790_000_000,
    )


def answer(body: dict, values: list[float], path: str = "/v2/rerank", **facts) -> dict | list:
    return json.loads(encode_body(render_response(parse_request(body, path), result(values, **facts))))


def order(body: dict, values: list[float]) -> list[int]:
    return [item["index"] for item in answer(body, values)["results"]]


def test_the_superset_has_what_each_client_reads():
    documents = [{"text": "가", "url": "u"}, {"title": "나"}, "다"]
    body = {"query": QUERY, "documents": documents, "top_n": 2, "return_documents": True, "model": "rerank-v3.5"}
    results = [
        {"index": 2, "relevance_score": 0.98005071, "document": {"text": "다"}},
        {"index": 1, "relevance_score": 0.5, "document": {"title": "나", "text": "title: 나"}},
    ]
    assert answer(body, [-1.0, 0.0, 3.8944108]) == {
        "id": "0b0c",
        "object": "rerank",
        "model": "rerank-v3.5",
        "created": 1_790_000_000,
        "results": results,
        "data": results,
        "usage": {"prompt_tokens": 42, "completion_tokens": 0, "total_tokens": 42},
        "meta": {
            "api_version": {"version": "2", "is_experimental": False},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 42, "output_tokens": 0},
            "warnings": [],
        },
    }


def test_without_a_name_the_model_is_the_one_that_answered():
    assert answer({"query": QUERY, "documents": ["가"]}, [0.0])["model"] == "models/run-1"


def test_voyage_style_callers_get_a_list_with_plain_documents():
    said = answer({"query": QUERY, "documents": [{"text": "가"}], "top_k": 1, "return_documents": True}, [0.0])
    assert (said["object"], said["data"][0]["document"]) == ("list", "가")


def test_every_hundred_documents_started_is_a_search_unit():
    for count, units in ((1, 1), (100, 1), (101, 2)):
        said = answer({"query": QUERY, "documents": ["가"] * count}, [0.0] * count)
        assert said["meta"]["billed_units"]["search_units"] == units


def test_logits_rank_where_sigmoids_tie():
    values = [40.0, 41.0, 40.5]
    assert len({written(sigmoid(value)) for value in values}) == 1
    assert order({"query": QUERY, "documents": ["가", "나", "다"]}, values) == [1, 2, 0]


def test_equal_logits_keep_the_callers_order():
    assert order({"query": QUERY, "documents": list("가나다라")}, [1.0, 2.0, 1.0, 2.0]) == [1, 3, 0, 2]


def test_blank_documents_rank_last_with_score_zero():
    said = answer({"query": QUERY, "documents": ["", "가", " \n"]}, [BLANK_LOGIT, -500.0, BLANK_LOGIT])
    assert [item["index"] for item in said["results"]] == [1, 0, 2]
    assert said["results"][1]["relevance_score"] == 0.0


def test_a_truncated_document_is_reported():
    said = answer({"query": QUERY, "documents": list("가나다")}, [0.0, 1.0, 2.0], truncated={0, 2})
    assert said["meta"]["warnings"] == ["truncated, the end was not read: 2 of 3 documents (index 0, 2)"]


def test_tei_gets_a_bare_sorted_list_of_all_texts():
    body = {"query": QUERY, "texts": ["가", "나"]}
    assert answer(body, [0.0, 3.8944108], "/rerank") == [
        {"index": 1, "score": 0.98005071},
        {"index": 0, "score": 0.5},
    ]
    said = answer(body | {"raw_scores": True, "return_text": True}, [0.5, 3.8944108], "/rerank")
    assert said == [{"index": 1, "score": 3.8944108, "text": "나"}, {"index": 0, "score": 0.5, "text": "가"}]


def test_pairs_are_answered_in_the_order_they_came():
    inputs = [{"text": QUERY, "text_pair": "가"}, {"text": QUERY, "text_pair": "나"}]
    assert answer({"inputs": inputs}, [0.0, 3.8944108]) == [
        {"label": "LABEL_0", "score": 0.5},
        {"label": "LABEL_0", "score": 0.98005071},
    ]


@pytest.mark.parametrize("value", [1.0, 0.0, 1e-5, 2e-30, 0.1 + 0.2, 1 / 3, 12345.678912345, -7.0, 1e22, 1e-45])
def test_numbers_have_a_decimal_point_and_at_most_eight_digits(value):
    text = json.dumps(written(value))
    assert "." in text
    mantissa = text.lower().split("e")[0]
    assert len(mantissa.replace(".", "").replace("-", "").strip("0")) <= 8
    assert math.isclose(written(value), value, rel_tol=2e-7)


@pytest.mark.parametrize("logit", [-1e9, -1000.0, -700.0, -30.0, 0.0, 30.0, 1000.0, 1e9])
def test_a_score_lies_between_zero_and_one_whatever_the_logit(logit):
    assert 0.0 <= sigmoid(logit) <= 1.0


def test_an_answer_past_five_megabytes_loses_data_first_and_then_documents():
    half = {"query": QUERY, "documents": ["가" * 1_000_000], "return_documents": True}
    said = answer(half, [0.0])
    assert "data" not in said
    assert said["results"][0]["document"]
    assert len(said["meta"]["warnings"]) == 1
    whole = {"query": QUERY, "documents": ["가" * 1_000_000, "나" * 1_000_000], "return_documents": True}
    said = answer(whole, [0.0, 1.0])
    assert "document" not in said["results"][0]
    assert len(said["meta"]["warnings"]) == 2
    assert len(encode_body(said)) < cohere.MAX_ANSWER_BYTES


def test_a_surrogate_in_an_echoed_document_can_be_written():
    body = {"query": QUERY, "documents": ["\ud83d"], "return_documents": True}
    assert answer(body, [0.0])["results"][0]["document"]["text"] == "\ufffd"


def test_logits_come_back_exactly():
    request = parse_request({"query": QUERY, "documents": ["가", "나"]}, "/v2/rerank")
    asked = parse_request(logits.encode_request(request), "/invocations")
    sent = result([0.1234567910432815, -11.5], truncated={1})
    wire = json.loads(encode_body(render_response(asked, sent)))
    received = logits.decode_answer(wire, request)
    assert (received.logits, received.tokens, received.truncated) == (sent.logits, sent.tokens, sent.truncated)
    assert (received.model, received.max_length) == ("models/run-1", 512)


@pytest.mark.parametrize("change", [{"logits": [1.0]}, {"logits": ["x", 1.0]}, {"tokens": None}, {"logits": [1e999, 1.0]}])
def test_an_answer_that_does_not_fit_the_request_is_refused(change):
    request = parse_request({"query": QUERY, "documents": ["가", "나"]}, "/v2/rerank")
    wire = {"logits": [1.0, 2.0], "tokens": [1, 2], "truncated": [False, False], "model": "m"}
    with pytest.raises(logits.UnreadableAnswer):
        logits.decode_answer(wire | change, request)


def test_an_option_that_no_model_reads_is_told_and_not_passed_over() -> None:
    options = {"max_tokens_per_doc": 512, "max_chunks_per_doc": 2, "instruction": "법률 문서"}
    body = {"query": "질문", "documents": ["답"]} | options
    request = parse_request(body, "/v2/rerank")
    result = RerankResult(logits=(1.0,), tokens=(5,), truncated=(False,), model="m")
    [warning] = render_response(request, result)["meta"]["warnings"]
    assert "instruction" in warning
