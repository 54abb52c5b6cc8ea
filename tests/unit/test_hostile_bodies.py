"""Whatever is sent, to container or rerank function: an answer or a refusal that every client can read, never a 5xx."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from public_api import KEY, PublicApi
from starlette.testclient import TestClient
from test_openapi import Lengths

from ko_reranker.serving import create_app

QUERY, DOCUMENT = "서울의 인구는?", "서울의 인구는 940만 명이다."
BODY = {"query": QUERY, "documents": [DOCUMENT]}

# One body of each dialect, and where a value of the wrong kind is put into it.
DIALECTS: dict[str, dict[str, Any]] = {
    "cohere": {**BODY, "top_n": 1, "top_k": 1, "return_documents": True, "raw_scores": True, "rank_fields": ["a"],
               "model": "m", "order": "relevance", "max_tokens_per_doc": 9, "max_chunks_per_doc": 9, "instruction": "i",
               "truncate": "END", "truncation": True, "priority": 1},
    "tei": {"query": QUERY, "texts": [DOCUMENT], "return_text": True, "raw_scores": True, "truncate": True,
            "truncation_direction": "right"},
    "nim": {"query": {"text": QUERY}, "passages": [{"text": DOCUMENT}]},
    "mixedbread": {"query": QUERY, "input": [DOCUMENT], "top_k": 1, "return_input": True, "rank_fields": ["a"]},
    "score": {"text_1": QUERY, "text_2": [DOCUMENT]},
    "bedrock": {"queries": [{"textQuery": {"text": QUERY}}],
                "sources": [{"inlineDocumentSource": {"textDocument": {"text": DOCUMENT}}}],
                "rerankingConfiguration": {"bedrockRerankingConfiguration": {"numberOfResults": 1}}},
    "pairs": {"inputs": [{"text": QUERY, "text_pair": DOCUMENT}], "parameters": {"function_to_apply": "none"}},
    "parallel": {"inputs": [QUERY], "docs": [DOCUMENT]},
    "logits": {"format": "logits", "queries": [QUERY], "documents": [DOCUMENT]},
}  # fmt: skip
WRONG = (
    None,
    True,
    0,
    -1,
    1.5,
    1e300,
    10**4000,
    "",
    " ",
    "\x00",
    "\ud83d",
    [],
    [[]],
    [None],
    [5],
    {},
    {"text": None},
    {"a": {}},
)


def replaced(value: Any) -> Iterator[Any]:
    """Yield a value with each of its parts, however deep, replaced by each wrong one."""
    yield from WRONG
    for name in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for other in replaced(value[name]):
            changed = value.copy()
            changed[name] = other
            yield changed


def nested(depth: int, opening: str, closing: str) -> bytes:
    return f'{{"query": "a", "documents": {opening * depth}{closing * depth}}}'.encode()


BYTES = {
    "nothing": b"",
    "cut off": b'{"query": "a", "docu',
    "two values": b'{"query": "a", "documents": ["b"]} {}',
    "not UTF-8": b'{"query": "\xff\xfe", "documents": ["b"]}',
    "UTF-16": '{"query": "a", "documents": ["b"]}'.encode("utf-16"),
    "EUC-KR": '{"query": "가", "documents": ["나"]}'.encode("euc-kr"),
    "compressed": gzip.compress(json.dumps(BODY).encode()),
    "compressed and cut off": gzip.compress(json.dumps(BODY).encode())[:-9],
    "compressed with something behind it": gzip.compress(json.dumps(BODY).encode()) + b"{}",
    "a million compressed nothings": gzip.compress(b"") * 200_000,
    "30 MB of white space in 30 kB": gzip.compress(b" " * 30_000_000),
    "compressed twice": gzip.compress(gzip.compress(json.dumps(BODY).encode())),
    "byte-order mark": b"\xef\xbb\xbf" + json.dumps(BODY).encode(),
    "NaN": b'{"query": "a", "documents": ["b"], "top_n": NaN}',
    "infinity": b'{"query": "a", "documents": [{"a": -Infinity}]}',
    "a number past every float": b'{"query": "a", "documents": ["b"], "top_n": 1e99999}',
    "a number of 5000 digits": b'{"query": "a", "documents": ["b"], "top_n": ' + b"9" * 5000 + b"}",
    "a number of a million digits": b'{"query": "a", "documents": ["b"], "top_n": ' + b"9" * 1_000_000 + b"}",
    "a fraction of a million digits": b'{"query": "a", "documents": [{"a": 0.' + b"9" * 1_000_000 + b"}]}",
    "lists in lists": nested(100_000, "[", "]"),
    "objects in objects": nested(100_000, '{"a":', "1" + "}")[: 6_000_000],
    "as deep as a parser goes": nested(900, "[", "]"),
    "a document as deep as a parser goes": b'{"query": "a", "documents": [' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"]}",
    "duplicate keys": b'{"query": 5, "query": "a", "documents": [], "documents": ["b"]}',
    "lone surrogates": b'{"query": "\\ud83d", "documents": ["\\udc00", {"\\ud800": "\\udfff"}], "return_documents": true}',
    "NUL": b'{"query": "\\u0000a", "documents": ["\\u0000", {"\\u0000": "\\u0000"}], "return_documents": true}',
    "blank documents only": b'{"query": "a", "documents": ["", " ", "\\ufeff", {}, {"text": ""}]}',
    "10,000 documents": json.dumps({"query": "a", "documents": ["b"] * 10_000}).encode(),
    "10,001 documents": json.dumps({"query": "a", "documents": ["b"] * 10_001}).encode(),
    "1.5 million documents": json.dumps({"query": "a", "documents": [""] * 1_500_000}).encode(),
    "10,001 pairs": json.dumps({"inputs": [["a", "b"]] * 10_001}).encode(),
    "6 MB of escaped Korean": json.dumps({"query": "a", "documents": ["가" * 990_000]}).encode(),
    "6 MB of escaped Korean, repeated": json.dumps(
        {"query": "a", "documents": ["가" * 330_000] * 3, "return_documents": True}
    ).encode(),
    "a query of 5 MB": json.dumps({"query": "가" * 800_000, "documents": ["b"]}).encode(),
    "a hundred thousand fields to rank by": json.dumps(
        {"query": "a", "documents": [{"a": "b"}] * 10_000, "rank_fields": [str(n) for n in range(100_000)]}
    ).encode(),
    "a model's name of 3 MB": json.dumps({**BODY, "model": "m" * 3_000_000}).encode(),
}  # fmt: skip
ANSWERED = {
    "compressed", "byte-order mark", "duplicate keys", "lone surrogates", "NUL", "blank documents only", "10,000 documents",
    "6 MB of escaped Korean", "6 MB of escaped Korean, repeated", "a query of 5 MB",
    "a hundred thousand fields to rank by", "a model's name of 3 MB",
    "a fraction of a million digits",
}  # fmt: skip

Send = Callable[[str, bytes], tuple[int, bytes]]


@pytest.fixture(scope="module")
def container() -> Iterator[Send]:
    with TestClient(create_app(Lengths()), raise_server_exceptions=False) as client:

        def send(path: str, content: bytes) -> tuple[int, bytes]:
            answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
            return answer.status_code, answer.content

        yield send


@pytest.fixture(scope="module")
def rerank_function() -> Send:
    api = PublicApi()

    def send(path: str, content: bytes) -> tuple[int, bytes]:
        answer = api.call("POST", path, {"Content-Type": "application/json", "x-api-key": KEY}, content)
        return answer["statusCode"], answer["body"].encode()

    return send


@pytest.fixture(params=["container", "rerank_function"])
def send(request: pytest.FixtureRequest) -> Send:
    return request.getfixturevalue(request.param)


def check(status: int, content: bytes) -> None:
    """An answer in JSON, or a refusal with everything that clients look for."""
    said = json.loads(content)
    if status == 200:
        return
    assert status in {400, 413, 415, 422}, said
    assert said["message"] == said["detail"] == said["error"]["message"] != ""
    assert said["error"]["code"] == status
    assert {"type", "param"} <= said["error"].keys() and said["error_type"]
    assert QUERY not in said["message"] and DOCUMENT not in said["message"]


@pytest.mark.parametrize("name", BYTES)
def test_hostile_bytes_are_answered_or_refused(send: Send, name: str) -> None:
    status, content = send("/v2/rerank", BYTES[name])
    check(status, content)
    assert (status == 200) is (name in ANSWERED), content[:300]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_value_of_the_wrong_kind_anywhere_is_answered_or_refused(send: Send, dialect: str) -> None:
    for body in replaced(DIALECTS[dialect]):
        check(*send("/v2/rerank", json.dumps(body).encode()))


def test_the_containers_own_path_is_no_weaker(container: Send) -> None:
    for body in replaced(DIALECTS["logits"]):
        check(*container("/invocations", json.dumps(body).encode()))
    for content in BYTES.values():
        check(*container("/invocations", content))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the container's app listens, under the server that it runs under."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(Lengths()), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def exchange(port: int, head: str, body: bytes, *, hang_up: bool = False) -> bytes:
    """Send a request and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"POST /v2/rerank HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{head}\r\n".encode() + body)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


GOOD = json.dumps(BODY).encode()


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        (f"Content-Length: {len(GOOD)}\r\n", GOOD, {200}),
        (f"Content-Length: {len(GOOD) - 5}\r\n", GOOD, {400}),
        ("Content-Length: 0\r\n", GOOD, {400}),
        ("Content-Length: 99999999999999\r\n", GOOD, {413}),
        ("Content-Length: -1\r\n", GOOD, {400}),
        ("Content-Length: many\r\n", GOOD, {400}),
        ("Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD), {200}),
        ("Transfer-Encoding: chunked\r\n", b"zz\r\n" + GOOD, {400}),
        ("", GOOD, {400}),
    ],
    ids=["true", "too short", "none", "past the limit", "negative", "no number", "chunks", "no chunks", "not said"],
)
def test_a_body_that_is_not_as_long_as_it_says_is_refused(port: int, head: str, body: bytes, statuses: set[int]) -> None:
    answer = exchange(port, f"Content-Type: application/json\r\n{head}", body)
    assert int(answer.split(b" ", 2)[1]) in statuses, answer


def test_a_caller_who_hangs_up_half_way_leaves_nothing_behind(port: int) -> None:
    head = "Content-Type: application/json\r\nContent-Length: "
    assert exchange(port, f"{head}{len(GOOD) + 50}\r\n", GOOD, hang_up=True) == b""
    assert exchange(port, f"{head}{len(GOOD)}\r\n", GOOD).startswith(b"HTTP/1.1 200")
