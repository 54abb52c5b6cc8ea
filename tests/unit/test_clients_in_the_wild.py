"""Paths and bodies that clients out there send, each answered as it expects."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from public_api import KEY, PublicApi
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.protocol import (
    CONTAINER_ROUTES,
    PUBLIC_ROUTES,
    ProtocolError,
    RerankResult,
    ServiceFacts,
    describe,
    encode_body,
    find_operation,
    normalise_path,
    parse_request,
    render_response,
)
from ko_reranker.serving import ServingOptions, create_app

QUERY = "질문"
TEXTS = ["가", "나", "다"]
# The sigmoids of -1, 0 and 3.8944108 as they are written.
LOW, MIDDLE, HIGH = 0.26894142, 0.5, 0.98005071
LOGITS = (-1.0, 0.0, 3.8944108)


def ask(body: dict, path: str = "/v2/rerank", logits: tuple[float, ...] = LOGITS) -> dict | list:
    count = len(logits)
    result = RerankResult(logits, (7,) * count, (False,) * count, "run-1", 512, "0b0c", 1_790_000_000)
    return json.loads(encode_body(render_response(parse_request(body, path), result)))


@pytest.fixture(scope="module")
def container():
    with TestClient(create_app(StubRanker()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def api() -> PublicApi:
    return PublicApi()


# Paths


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v1/rerank/", "/v1/rerank"),
        ("//v2//v2/v2/rerank", "/v2/rerank"),
        ("/v1/v1/models", "/v1/models"),
        ("/infinity/v1/v1/rerank", "/infinity/v1/rerank"),
        ("/v1/v1/retrieval/a/b/reranking", "/v1/retrieval/a/b/reranking"),
        ("http://reranker.internal:8080/v2/rerank", "/v2/rerank"),
        ("HTTPS://reranker.internal/v1/v2/rerank?x", "/v2/rerank?x"),
        ("http://reranker.internal", "/"),
        ("/v1/retrieval/http://x/reranking", "/v1/retrieval/http:/x/reranking"),
        ("/v1/score", "/v1/score"),
    ],
)
def test_a_path_is_read_as_it_was_meant(sent, meant):
    assert normalise_path(sent) == meant


@pytest.mark.parametrize(
    "path",
    [
        "/reranking", "/predict", "/api/rerank", "/huggingface/rerank", "/v1/v2/rerank",
        "/api/v1/services/rerank/text-rerank/text-rerank", "/compatible-api/v1/reranks",
    ],
)  # fmt: skip
def test_clients_find_the_api_at_their_own_paths(path):
    assert find_operation(PUBLIC_ROUTES, "POST", normalise_path(path)) == "rerank"


@pytest.mark.parametrize("path", ["/health", "/ping", "/info", "/v1/models", "/openapi.json", "/metrics"])
def test_head_is_answered_where_get_is(container, path):
    assert container.head(path).status_code == container.get(path).status_code == 200
    assert container.head(path).content == b""
    assert find_operation(CONTAINER_ROUTES, "HEAD", path) == find_operation(CONTAINER_ROUTES, "GET", path)


def test_head_at_the_public_api_has_no_body(api):
    answer = api.call("HEAD", "/health", {}, b"")
    assert (answer["statusCode"], answer["body"]) == (200, "")


def test_head_is_no_way_to_rank():
    with pytest.raises(ProtocolError) as caught:
        find_operation(PUBLIC_ROUTES, "HEAD", "/v2/rerank")
    assert (caught.value.status, caught.value.headers) == (405, {"Allow": "POST"})
    with pytest.raises(ProtocolError) as caught:
        find_operation(PUBLIC_ROUTES, "DELETE", "/health")
    assert caught.value.headers == {"Allow": "GET, HEAD"}


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        ("run-1", "/v1/models/run-1"),
        ("run-1", "/models/run-1/"),
        ("BAAI/bge-reranker-v2-m3", "/v1/models/BAAI/bge-reranker-v2-m3"),
        ("BAAI/bge-reranker-v2-m3", "/v1/models/BAAI%2Fbge-reranker-v2-m3"),
        ("s3://bucket/models/a/", "/v1/models/s3://bucket/models/a/"),
        ("run-1", "/infinity/v1/models/run-1"),
    ],
)
def test_a_model_is_found_by_its_name(served, asked):
    path = normalise_path(asked)
    assert find_operation(PUBLIC_ROUTES, "GET", path) == "model"
    assert describe("model", ServiceFacts(served), path)["id"] == served


def test_another_model_is_a_404_that_names_the_one_there_is(container):
    said = container.get("/v1/models/gpt-4")
    assert said.status_code == 404
    assert StubRanker().model_id in said.json()["message"]


def test_weaviate_finds_its_reranker_ready_and_gets_scores_in_the_order_of_the_documents(container):
    assert container.get("/.well-known/ready").status_code == 204
    assert container.get("/meta").json()["model_id"] == StubRanker().model_id
    said = container.post("/rerank", json={"query": QUERY, "documents": ["짧다", "더 길다 길어"]}).json()
    assert [item["document"] for item in said["scores"]] == ["짧다", "더 길다 길어"]
    by_index = {item["index"]: item["relevance_score"] for item in said["results"]}
    assert [item["score"] for item in said["scores"]] == [by_index[0], by_index[1]]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"query": QUERY, "documents": TEXTS}, "/v2/rerank"),
        ({"query": QUERY, "documents": TEXTS, "model": "m"}, "/rerank"),
        ({"query": QUERY, "documents": TEXTS, "top_n": 1}, "/rerank"),
    ],
)
def test_nobody_else_pays_for_weaviates_scores(body, path):
    assert "scores" not in ask(body, path)


# Bodies


def test_dashscope_nests_its_body_and_its_answer():
    body = {
        "model": "gte-rerank-v2",
        "input": {"query": QUERY, "documents": TEXTS},
        "parameters": {"return_documents": True, "top_n": 2},
    }
    path = "/api/v1/services/rerank/text-rerank/text-rerank"
    assert ask(body, path) == {
        "output": {
            "results": [
                {"index": 2, "relevance_score": HIGH, "document": {"text": "다"}},
                {"index": 1, "relevance_score": MIDDLE, "document": {"text": "나"}},
            ]
        },
        "usage": {"total_tokens": 21},
        "request_id": "0b0c",
    }
    request = parse_request(body | {"parameters": {"instruct": "고객 문의에 답하는 문서", "top_n": 0}}, path)
    assert (request.instruction, request.top_n) == ("고객 문의에 답하는 문서", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": {"documents": TEXTS}}, "input.query"),
        ({"input": {"query": QUERY}}, "input.documents"),
        ({"input": {"query": QUERY, "documents": []}}, "input.documents"),
        ({"input": {"query": QUERY, "documents": ["a"] * 11}}, "input.documents"),
        ({"input": {"query": QUERY, "documents": TEXTS}, "parameters": [1]}, "parameters"),
    ],
)
def test_what_is_wrong_in_a_nested_body_is_named(body, param):
    with pytest.raises(ProtocolError) as caught:
        parse_request(body, "/api/v1/services/rerank/text-rerank/text-rerank", max_documents=10)
    assert (caught.value.status, caught.value.param) == (422, param)


def test_elasticsearch_gets_the_bare_list_that_it_reads():
    body = {"query": QUERY, "documents": TEXTS, "return_documents": True, "top_n": 1}
    assert ask(body, "/huggingface/rerank") == [{"index": 2, "score": HIGH, "text": "다"}]
    assert ask({"query": QUERY, "texts": TEXTS}, "/huggingface/rerank")[0] == {"index": 2, "score": HIGH}


@pytest.mark.parametrize("name", ["use_activation", "activation"])
@pytest.mark.parametrize("body", [{"documents": TEXTS}, {"texts": TEXTS}, {"input": TEXTS}])
def test_activation_switched_off_asks_for_logits(name, body):
    assert parse_request({"query": QUERY, **body, name: False}, "/rerank").raw_scores
    assert not parse_request({"query": QUERY, **body, name: True}, "/rerank").raw_scores
    assert not parse_request({"query": QUERY, **body, name: None}, "/rerank").raw_scores


def test_activation_switched_off_asks_for_logits_of_pairs():
    assert ask({"text_1": QUERY, "text_2": TEXTS, "use_activation": False}, "/score")["data"][2]["score"] == 3.8944108
    pairs = [{"text": QUERY, "text_pair": text} for text in TEXTS]
    assert ask({"inputs": pairs, "raw_scores": True}, "/predict")[0][0]["score"] == -1.0


@pytest.mark.parametrize("first", [QUERY, [QUERY], ["하나", "둘", "셋"], {"content": [{"type": "text", "text": QUERY}]}])
def test_vllm_scores_queries_and_items(first):
    said = ask({"queries": first, "items": TEXTS}, "/score")
    assert [item["score"] for item in said["data"]] == [LOW, MIDDLE, HIGH]


def test_vllm_writes_documents_as_content():
    content = {"content": [{"type": "text", "text": text} for text in TEXTS]}
    assert [document.text for document in parse_request({"query": QUERY, "documents": content}, "/rerank").documents] == TEXTS
    assert parse_request({"query": {"content": [{"type": "text", "text": QUERY}]}, "documents": TEXTS}, "/rerank").queries == (
        QUERY,
    )
    several = {"data_1": {"content": ["하나", "둘", "셋"]}, "data_2": content}
    assert parse_request(several, "/score").queries == ("하나", "둘", "셋")


@pytest.mark.parametrize(
    ("documents", "param"),
    [
        ({"content": []}, "documents.content"),
        ({"content": [{"type": "image_url", "image_url": {"url": "https://example.com"}}]}, "documents.content[0]"),
        ({"content": ["a", 5]}, "documents.content[1]"),
        ({"content": ["a"] * 11}, "documents"),
        ({"content": "a"}, "documents"),
    ],
)
def test_content_that_is_no_text_is_named(documents, param):
    with pytest.raises(ProtocolError) as caught:
        parse_request({"query": QUERY, "documents": documents}, "/rerank", max_documents=10)
    assert (caught.value.status, caught.value.param) == (422, param)


@pytest.mark.parametrize("zero", [0, 0.0, "0", "00"])
def test_top_n_of_zero_is_all_with_a_warning(zero):
    said = ask({"query": QUERY, "documents": TEXTS, "top_n": zero})
    assert len(said["results"]) == 3
    assert said["meta"]["warnings"] == ["top_n is 0: all documents are returned, as without it"]


def test_top_k_counts_where_top_n_is_zero():
    said = ask({"query": QUERY, "documents": TEXTS, "top_n": 0, "top_k": 1})
    assert len(said["results"]) == 1 and not said["meta"]["warnings"]


def test_a_pair_by_itself_and_a_batch_are_predicted_as_by_tei():
    assert ask({"inputs": [QUERY, "다"]}, "/predict", (3.8944108,)) == [{"label": "LABEL_0", "score": HIGH}]
    batch = {"inputs": [[QUERY, text] for text in TEXTS]}
    assert ask(batch, "/predict") == [[{"label": "LABEL_0", "score": score}] for score in (LOW, MIDDLE, HIGH)]
    assert ask(batch, "/rerank") == [{"label": "LABEL_0", "score": score} for score in (LOW, MIDDLE, HIGH)]


def test_instruct_is_another_name_for_instruction():
    assert parse_request({"query": QUERY, "documents": TEXTS, "instruct": "법률 질문"}, "/rerank").instruction == "법률 질문"


# Bytes

BODY = {"query": QUERY, "documents": ["가나다라", "가", "가나"]}
JSON = {"Content-Type": "application/json"}
REFUSED = {
    "EUC-KR": (json.dumps(BODY, ensure_ascii=False).encode("cp949"), {}, 400),
    "deflate": (zlib.compress(json.dumps(BODY).encode()), {"Content-Encoding": "deflate"}, 415),
    "brotli": (json.dumps(BODY).encode(), {"Content-Encoding": "br"}, 415),
    "gzip twice": (gzip.compress(gzip.compress(json.dumps(BODY).encode())), {"Content-Encoding": "gzip, gzip"}, 415),
    "gzip that is none": (json.dumps(BODY).encode(), {"Content-Encoding": "gzip"}, 400),
    "gzip cut off": (gzip.compress(json.dumps(BODY).encode())[:-8], {"Content-Encoding": "gzip"}, 400),
    "gzip of EUC-KR": (gzip.compress(json.dumps(BODY, ensure_ascii=False).encode("euc-kr")), {"Content-Encoding": "gzip"}, 400),
    "a bomb": (gzip.compress(json.dumps(BODY | {"pad": "a" * 30_000_000}).encode()), {"Content-Encoding": "gzip"}, 413),
}
ANSWERED = {
    "gzip": (gzip.compress(json.dumps(BODY).encode()), {"Content-Encoding": "gzip"}),
    "gzip by its old name": (gzip.compress(json.dumps(BODY).encode()), {"Content-Encoding": "X-GZIP"}),
    "gzip and identity": (gzip.compress(json.dumps(BODY).encode()), {"Content-Encoding": "identity, gzip"}),
    "gzip without a header": (gzip.compress(json.dumps(BODY).encode()), {}),
    "identity": (json.dumps(BODY).encode(), {"Content-Encoding": "identity"}),
    "U+FFFD of the caller's own": (json.dumps(BODY | {"title": "\ufffd"}, ensure_ascii=False).encode(), {}),
}


def sent(container: TestClient, api: PublicApi, content: bytes, headers: dict) -> list[tuple[int, dict]]:
    here = container.post("/v2/rerank", content=content, headers=JSON | headers)
    there = api.call("POST", "/v2/rerank", JSON | {"x-api-key": KEY} | headers, content)
    return [(here.status_code, here.json()), (there["statusCode"], json.loads(there["body"]))]


@pytest.mark.parametrize("name", REFUSED)
def test_bytes_that_would_be_misread_are_refused_everywhere_alike(container, api, name):
    content, headers, status = REFUSED[name]
    assert [answer for answer, _ in sent(container, api, content, headers)] == [status, status]


@pytest.mark.parametrize("name", ANSWERED)
def test_compressed_bodies_are_answered_everywhere(container, api, name):
    for status, said in sent(container, api, *ANSWERED[name]):
        assert status == 200, said
        assert said["results"][0]["index"] == 0


def test_other_encodings_are_told_which_one_to_use(container):
    said = container.post("/rerank", content=b"x", headers=JSON | {"Content-Encoding": "zstd"})
    assert (said.status_code, said.headers["Accept-Encoding"]) == (415, "gzip")


def test_what_a_body_becomes_counts_among_what_waits():
    options = ServingOptions(max_body_bytes=1_000)
    with TestClient(create_app(StubRanker(), options), raise_server_exceptions=False) as client:
        body = gzip.compress(json.dumps({"query": QUERY, "documents": ["a" * 2_000]}).encode())
        assert len(body) < 1_000
        assert client.post("/rerank", content=body, headers=JSON | {"Content-Encoding": "gzip"}).status_code == 413


def test_a_body_that_api_gateway_decoded_is_not_ranked_with_replaced_characters(api):
    event = {
        "httpMethod": "POST",
        "path": "/v2/rerank",
        "headers": {"x-api-key": KEY},
        "body": json.dumps(BODY, ensure_ascii=False).encode("euc-kr").decode(errors="replace"),
        "isBase64Encoded": False,
        "requestContext": {"requestId": "a1b2", "stage": "api"},
    }
    assert api.answer(event)["statusCode"] == 400


# Texts that look like nothing, and the same text twice

INVISIBLE = [
    "\ufffe",
    "\u200b",
    "\u3164\u3164",
    "\u115f\u1160",
    "\ufe0f",
    "\u00ad \u2060",
    "\U000e0061\U000e007f",
    "\u2800",
    "\x07\x7f",
    "\u180e",
]


@pytest.mark.parametrize("text", INVISIBLE)
def test_a_text_of_invisible_characters_is_empty(container, api, text):
    body = json.dumps({"query": QUERY, "documents": [text, "본문"]}).encode()
    for status, said in sent(container, api, body, {}):
        assert status == 200
        assert [item["index"] for item in said["results"]] == [1, 0]
        assert said["results"][1]["relevance_score"] == 0
    query = json.dumps({"query": text, "documents": ["본문"]}).encode()
    assert [status for status, _ in sent(container, api, query, {})] == [422, 422]


@pytest.mark.parametrize("text", ["a\u200b", "\u3164ㄱ", "❤\ufe0f", "\ufffd", "-"])
def test_a_text_with_something_to_see_is_none(text):
    assert not parse_request({"query": QUERY, "documents": [text]}, "/rerank").documents[0].blank


def test_equal_documents_tie_and_keep_their_order_and_are_scored_once(container, api):
    documents = ["다른 글", "같은 글 같은 글", "또 다른 글이 있다", "같은 글 같은 글", "같은 글 같은 글"]
    body = json.dumps({"query": QUERY, "documents": documents}).encode()
    for status, said in sent(container, api, body, {}):
        assert status == 200
        same = [item for item in said["results"] if item["index"] in {1, 3, 4}]
        assert [item["index"] for item in same] == [1, 3, 4]
        assert len({item["relevance_score"] for item in same}) == 1


def test_a_request_without_copies_is_sent_as_it_is():
    request = parse_request({"inputs": [["q", "a"], ["q", "b"], ["r", "a"]]}, "/rerank")
    assert request.distinct() == (request, None)


def test_of_copies_one_is_scored_and_counted():
    request = parse_request({"inputs": [["q", "a"], ["q", "b"], ["q", "a"], ["r", "a"]]}, "/rerank")
    once, places = request.distinct()
    assert [(once.query_of(index), document.text) for index, document in enumerate(once.documents)] == [
        ("q", "a"), ("q", "b"), ("r", "a")
    ]  # fmt: skip
    result = RerankResult((1.0, 2.0, 3.0), (5, 6, 7), (True, False, False), "m", chunks=(2, 1, 1)).spread(places)
    assert (result.logits, result.tokens) == ((1.0, 2.0, 1.0, 3.0), (5, 6, 0, 7))
    assert (result.truncated, result.chunks) == ((True, False, True, False), (2, 1, 2, 1))
