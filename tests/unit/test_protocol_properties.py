"""Whatever arrives is either a request or a ProtocolError, and every request can be answered."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.protocol import (
    ProtocolError,
    RerankResult,
    decode_body,
    encode_body,
    parse_request,
    render_response,
)

# Every string that JSON can carry: lone surrogates and NUL, too.
TEXT = st.text(st.characters(codec=None), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
FIELDS = ["query", "documents", "texts", "inputs", "top_n", "top_k", "return_documents", "return_text", "rank_fields",
          "raw_scores", "model", "truncation", "format", "queries", "parameters"]  # fmt: skip
DOCUMENT = TEXT | st.fixed_dictionaries({}, optional={"text": VALUE, "content": VALUE, "title": VALUE})
PAIR = st.fixed_dictionaries({}, optional={"text": TEXT, "text_pair": TEXT})
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "query": TEXT | st.fixed_dictionaries({"text": VALUE}),
        "documents": st.lists(DOCUMENT, max_size=5) | VALUE,
        "texts": st.lists(TEXT, max_size=5) | VALUE,
        "inputs": st.lists(PAIR, max_size=5) | VALUE,
        "top_n": SCALAR,
        "top_k": SCALAR,
        "return_documents": SCALAR,
        "return_text": SCALAR,
        "raw_scores": SCALAR,
        "rank_fields": st.lists(st.sampled_from(["text", "title"])) | VALUE,
        "model": SCALAR,
        "format": st.just("logits") | VALUE,
        "queries": st.lists(TEXT, max_size=5),
        "parameters": VALUE,
    },
)
BODY = LIKELY | st.dictionaries(st.sampled_from(FIELDS), VALUE) | VALUE
PATHS = st.sampled_from(["/v2/rerank", "/v1/rerank", "/rerank", "/invocations"])
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=400, deadline=None)
@given(body=BODY, path=PATHS, data=st.data())
def test_any_body_is_answered_or_refused_in_words(body, path, data):
    try:
        request = parse_request(decode_body(json.dumps(body).encode()), path)
    except ProtocolError as error:
        assert error.status in {400, 422}
        json.loads(encode_body(error.body()))
        return
    count = len(request.documents)
    logits = data.draw(st.lists(FLOAT32, min_size=count, max_size=count))
    answer = render_response(request, RerankResult(tuple(logits), (1,) * count, (False,) * count, "model"))
    said = json.loads(encode_body(answer))
    if request.dialect == "cohere":
        indexes = [item["index"] for item in said["results"]]
        assert len(indexes) == min(count, request.top_n or count)
        assert len(set(indexes)) == len(indexes)
        seen = [item["relevance_score"] for item in said["results"]]
        if not request.raw_scores:
            assert all(0.0 <= score <= 1.0 for score in seen)
            assert seen == sorted(seen, reverse=True)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(body):
    try:
        decode_body(body)
    except ProtocolError as error:
        assert error.status in {400, 415}
