"""What every client may send, and what it is told when it may not."""

from __future__ import annotations

import pytest

from ko_reranker.protocol import (
    CONTAINER_ROUTES,
    PUBLIC_ROUTES,
    ProtocolError,
    asks_for_facts,
    check_content_type,
    decode_body,
    find_operation,
    normalise_path,
    parse_request,
)
from ko_reranker.protocol.dialects import logits

QUERY = "서울의 인구는 얼마인가?"
DOCUMENTS = ["서울의 인구는 약 940만 명이다.", "부산은 항구 도시이다."]


def refusal(body: object, path: str = "/v2/rerank") -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse_request(body, path)
    return caught.value


def texts(body: dict) -> list[str]:
    return [document.text for document in parse_request(body, "/v2/rerank").documents]


def test_the_native_body_is_query_documents_and_top_n():
    request = parse_request({"query": QUERY, "documents": DOCUMENTS, "top_n": 1}, "/invocations")
    assert (request.dialect, request.queries, request.top_n) == ("cohere", (QUERY,), 1)
    assert [document.text for document in request.documents] == DOCUMENTS


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("한 문서", ["한 문서"]),
        ([{"text": "본문", "url": "https://example.com"}], ["본문"]),
        ([{"content": [{"type": "text", "text": "첫째"}, {"type": "text", "text": "둘째"}]}], ["첫째\n둘째"]),
        ([{"title": "제목", "year": 2024, "draft": False, "note": None}], ["title: 제목\nyear: 2024\ndraft: false"]),
        ([{"tags": ["가", "나"], "place": {"city": "서울"}}], ["tags: 가, 나\nplace:\n  city: 서울"]),
        ([{"quote": 'say "안녕"\n끝'}], ['quote: say "안녕"\n끝']),
        ([""], [""]),
        ([{}], [""]),
        ([{"text": "본문", "content": [{"type": "image_url"}]}], ["본문"]),
    ],
)
def test_a_document_is_a_string_or_any_object(documents, expected):
    assert texts({"query": QUERY, "documents": documents}) == expected


def test_rank_fields_pick_what_is_scored():
    document = {"title": "제목", "text": "본문", "url": "u"}
    assert texts({"query": QUERY, "documents": [document], "rank_fields": ["title", "text"]}) == ["title: 제목\ntext: 본문"]


def test_null_is_absent_and_strings_are_read_as_what_they_say():
    request = parse_request(
        {"query": {"text": QUERY}, "documents": DOCUMENTS, "top_n": "1", "return_documents": "true", "model": None,
         "rank_fields": None, "made_up": 1},
        "/v1/rerank",
    )  # fmt: skip
    assert (request.queries, request.top_n, request.return_documents, request.model) == ((QUERY,), 1, True, None)
    assert request.api_version == "1"


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "TRUE", "1"])
def test_a_flag_is_what_clients_mean_by_it(value):
    assert parse_request({"query": QUERY, "documents": DOCUMENTS, "return_documents": value}, "/rerank").return_documents


@pytest.mark.parametrize("value", [10**400, 1e300, "9" * 18])
def test_a_count_that_no_machine_holds_is_no_limit(value):
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": value, "max_tokens_per_doc": value}
    request = parse_request(body, "/rerank")
    assert request.top_n == request.max_tokens_per_doc == 2**31 - 1


def test_top_n_past_the_end_is_fine_and_top_k_is_top_n():
    assert parse_request({"query": QUERY, "documents": DOCUMENTS, "top_n": 99}, "/rerank").top_n == 99
    assert parse_request({"query": QUERY, "documents": DOCUMENTS, "top_k": 1}, "/rerank").top_n == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"top_n": -1}, "top_n"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_n": 1.5}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"top_n": "ten"}, "top_n"),
        ({"top_n": "-0"}, "top_n"),
        ({"top_n": "9" * 30}, "top_n"),
        ({"return_documents": [True]}, "return_documents"),
        ({"return_documents": "perhaps"}, "return_documents"),
        ({"model": 5}, "model"),
        ({"query": None}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": 5}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": 5}, "documents"),
        ({"documents": ["a", None]}, "documents[1]"),
        ({"documents": ["a", ["b"]]}, "documents[1]"),
        ({"documents": [{"content": [{"type": "image_url"}]}]}, "documents[0].content[0]"),
        ({"documents": None}, "documents"),
        ({"rank_fields": [1]}, "rank_fields"),
    ],
)
def test_a_wrong_field_is_a_422_that_names_it(change, param):
    error = refusal({"query": QUERY, "documents": DOCUMENTS} | change)
    assert (error.status, error.param, error.error_type) == (422, param, "validation")


@pytest.mark.parametrize("body", [None, [], "text", 5, {}, {"query": QUERY}])
def test_a_body_of_no_known_shape_is_a_422(body):
    assert refusal(body).status == 422


def test_tei_sends_texts():
    request = parse_request({"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True}, "/rerank")
    assert (request.dialect, request.raw_scores, request.return_documents) == ("tei", True, True)


def test_tei_without_texts_is_told_so_in_its_own_words():
    error = refusal({"query": QUERY, "texts": []}, "/rerank")
    assert (error.status, error.body()["error_type"]) == (400, "empty")


def test_the_model_card_sends_pairs():
    request = parse_request({"inputs": [{"text": QUERY, "text_pair": d} for d in DOCUMENTS]}, "/invocations")
    assert (request.dialect, request.queries) == ("pairs", (QUERY, QUERY))
    assert [indexes for _, indexes in request.scorable()] == [[0, 1]]


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ([], "inputs"),
        ("text", "inputs"),
        (["text"], "inputs[0]"),
        ([{"text": QUERY}], "inputs[0].text_pair"),
        ([{"text": "", "text_pair": "a"}], "inputs[0].text"),
        ([{"text": QUERY, "text_pair": 5}], "inputs[0].text_pair"),
    ],
)
def test_a_wrong_pair_is_a_422_that_names_it(inputs, param):
    assert refusal({"inputs": inputs}).param == param


def test_lambda_and_container_understand_each_other():
    for body in (
        {"query": QUERY, "documents": ["가", "", {"title": "나"}]},
        {"inputs": [{"text": "가", "text_pair": "나"}, {"text": "다", "text_pair": "라"}]},
    ):
        request = parse_request(body, "/v2/rerank")
        asked = parse_request(logits.encode_request(request), "/invocations")
        assert asked.dialect == "logits"
        assert [asked.query_of(i) for i in range(len(asked.documents))] == [
            request.query_of(i) for i in range(len(request.documents))
        ]
        assert [document.text for document in asked.documents] == [document.text for document in request.documents]


def test_only_the_containers_own_path_speaks_with_the_rerank_function():
    body = {"format": "logits", "query": QUERY, "documents": DOCUMENTS}
    assert [parse_request(body, path).dialect for path in ("/invocations", "/v2/rerank")] == ["logits", "cohere"]
    assert [asks_for_facts({"format": "facts"}, path) for path in ("/invocations", "/v2/rerank")] == [True, False]


def test_what_no_tokenizer_takes_is_taken_out():
    body = decode_body(b'\xef\xbb\xbf{"query": "a\\u0000b", "documents": ["\\ud83d", "\\ufeff\\uac00"]}')
    request = parse_request(body, "/rerank")
    assert request.queries == ("a b",)
    assert [document.text for document in request.documents] == ["\ufffd", "가"]


@pytest.mark.parametrize(
    "body",
    [b"", b"   ", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", None],
)
def test_what_is_not_json_is_a_400(body):
    with pytest.raises(ProtocolError) as caught:
        decode_body(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", [None, "", "application/json", "Application/JSON; charset=UTF-8", "text/json"])
def test_json_content_types_are_taken(content_type):
    check_content_type(content_type)


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=euc-kr"]
)
def test_other_content_types_are_a_415(content_type):
    with pytest.raises(ProtocolError) as caught:
        check_content_type(content_type)
    assert caught.value.status == 415


@pytest.mark.parametrize("path", ["/v2/rerank", "/v2/rerank/", "//v2//rerank", "/v2/rerank//"])
def test_slashes_do_not_matter(path):
    assert find_operation(PUBLIC_ROUTES, "POST", normalise_path(path)) == "rerank"


def test_an_unknown_path_is_a_404_and_a_wrong_method_a_405():
    with pytest.raises(ProtocolError) as caught:
        find_operation(PUBLIC_ROUTES, "POST", "/invocations")
    assert caught.value.status == 404
    with pytest.raises(ProtocolError) as caught:
        find_operation(CONTAINER_ROUTES, "GET", "/invocations")
    assert (caught.value.status, caught.value.headers) == (405, {"Allow": "POST"})


def test_an_error_says_the_same_wherever_a_client_looks():
    error = refusal({"query": QUERY, "documents": ["a", 5]})
    assert error.body() == {
        "message": "documents[1]: must be a string or an object, is a number",
        "detail": "documents[1]: must be a string or an object, is a number",
        "error": {
            "message": "documents[1]: must be a string or an object, is a number",
            "type": "invalid_request_error",
            "param": "documents[1]",
            "code": 422,
        },
        "error_type": "validation",
    }


@pytest.mark.parametrize(
    "field", ["documents", "query", "top_n", "return_documents", "rank_fields", "model", "texts", "inputs", "parameters"]
)
def test_deep_nesting_is_no_surprise_anywhere(field):
    """As deep as Python's own parser goes: what is read must be refused or ignored, never crash."""
    deep = decode_body(b"[" * 800 + b"]" * 800)
    for value in (deep, [deep], {"text": deep}, [{"text": deep}]):
        try:
            parse_request({"query": QUERY, "documents": DOCUMENTS, field: value}, "/rerank")
        except ProtocolError as error:
            assert error.status == 422


def test_a_document_nested_too_deeply_to_be_echoed_is_refused():
    nested: dict = {}
    for _ in range(40):
        nested = {"a": nested}
    assert refusal({"query": QUERY, "documents": [{"text": "본문", "extra": nested}]}).param == "documents[0]"
