"""One sender can't hold up the others: what is made of a body is bounded, and made where nobody waits for it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient
from stub_ranker import StubRanker

from ko_reranker.protocol import ProtocolError, decode_body, parse_request
from ko_reranker.protocol.documents import MAX_GROWTH
from ko_reranker.serving import ServingOptions, app, create_app
from ko_reranker.text import normalising

QUERY = "서울의 인구는?"


def nested(inner: str, depth: int = 28) -> str:
    """An object with something in lists in lists."""
    return '{"a":' + "[" * depth + inner + "]" * depth + "}"


def parse(documents: str, name: str = "documents", query: str = f'"query": "{QUERY}"') -> Any:
    return parse_request(decode_body(f'{{{query}, "{name}": [{documents}]}}'), "/v2/rerank", 10_000)


EMPTY_LISTS = ",".join(["[]"] * 30_000)


@pytest.mark.parametrize("inner", [EMPTY_LISTS, ",".join(["[1]"] * 30_000), ",".join(['{"k":0}'] * 30_000)])
def test_a_document_that_grows_many_times_over_is_refused_by_name(inner: str) -> None:
    with pytest.raises(ProtocolError, match=f"more than {MAX_GROWTH} times") as caught:
        parse('"a text", ' + nested(inner))
    assert (caught.value.status, caught.value.param) == (422, "documents[1]")


@pytest.mark.parametrize(
    ("name", "query", "place"),
    [
        ("texts", f'"query": "{QUERY}"', "texts["),
        ("passages", f'"query": {{"text": "{QUERY}"}}', "passages["),
        ("input", f'"query": "{QUERY}"', "input["),
        ("sources", f'"queries": ["{QUERY}"]', "sources["),
        ("text_2", f'"text_1": "{QUERY}"', "text_2["),
    ],
)
def test_many_small_documents_count_together_in_every_dialect(name: str, query: str, place: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(",".join([nested("[]," * 9 + "[]", 28)] * 2_000), name, query)
    assert caught.value.status == 422 and caught.value.param.startswith(place)


@pytest.mark.parametrize(
    "document",
    [
        nested("1", 30),
        '{"a":' * 31 + "1" + "}" * 31,
        json.dumps(
            {"회사": {"이름": "가나", "주소": {"시": "서울", "구": ["종로", "중구"]}, "사람": [{"이름": "김"}] * 2_000}}
        ),
        json.dumps({"table": [[row, row + 1, None, 0.5] for row in range(5_000)]}),
        json.dumps({"a": {"b": {"c": {"d": {"e": list(range(9_000))}}}}}),
    ],
)
def test_objects_as_people_have_them_are_rendered(document: str) -> None:
    assert len(parse(f"{document}, {document}").documents) == 2


def test_what_all_texts_come_to_is_bounded_by_what_was_sent() -> None:
    body = ",".join([nested("[],[1],[],[2]", depth) for depth in range(1, 5)] * 200)
    assert sum(len(document.text) for document in parse(body).documents) <= MAX_GROWTH * len(body) + 64_000


@pytest.mark.parametrize(
    "body", ["[" + "[]," * 500_000 + "[]]", '{"a": [' + "0," * 1_500_000 + "0]}", '[{"a":{}}' + ',{"a":{}}' * 150_000 + "]"]
)
def test_a_body_of_very_many_values_is_refused_before_they_take_memory(body: str) -> None:
    with pytest.raises(ProtocolError, match="values") as caught:
        decode_body(body)
    assert caught.value.status == 422


@pytest.mark.parametrize("text", ["[[링크]], {틀}, " * 200_000, '\\"[' * 400_000, "a,b,c,d\n" * 400_000])
def test_brackets_and_commas_in_a_text_are_no_values(text: str) -> None:
    assert decode_body(json.dumps({"documents": [text]}, ensure_ascii=False))["documents"] == [text]


def test_objects_that_nobody_wants_back_are_not_kept() -> None:
    body = {"query": QUERY, "documents": [{"제목": "서울", "본문": "인구"}, "글"]}
    assert [document.source for document in parse_request(body, "/v2/rerank").documents] == ["", ""]
    kept = parse_request({**body, "return_documents": True}, "/v2/rerank").documents
    assert [document.source for document in kept] == body["documents"]


# ---------------------------------------------------------------------------------------------------------------------
# In the server


def test_a_large_body_is_parsed_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def parsing(*arguments: Any) -> Any:
        seen.append(threading.current_thread().name)
        return parse_request(*arguments)

    monkeypatch.setattr(app, "parse_request", parsing)
    with TestClient(create_app(StubRanker())) as client:
        for text in ("짧은 글", "긴 글 " * 50_000):
            assert client.post("/rerank", json={"query": QUERY, "documents": [text]}).status_code == 200
    assert [name.startswith("large-requests") for name in seen] == [False, True]


def test_the_time_of_a_request_covers_its_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    enter, leave = threading.Event(), threading.Event()

    def parsing(*arguments: Any) -> Any:
        enter.set()
        assert leave.wait(timeout=10)
        return parse_request(*arguments)

    monkeypatch.setattr(app, "parse_request", parsing)
    with TestClient(create_app(StubRanker(), ServingOptions(request_timeout_seconds=0.3))) as client:
        late = client.post("/rerank", json={"query": QUERY, "documents": ["긴 글 " * 50_000]})
        assert enter.is_set()
        assert (late.status_code, int(late.headers["retry-after"]) >= 1) == (429, True)
        leave.set()


def test_a_request_whose_time_is_over_is_dropped_between_two_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, leave = [], threading.Event()
    original = normalising.read_dump

    def reading(text: str, *arguments: Any) -> Any:
        if text.startswith("큰 글"):
            begun.append(text)
            assert leave.wait(timeout=10)
        return original(text, *arguments)

    monkeypatch.setattr(normalising, "read_dump", reading)
    ranker = StubRanker()
    with TestClient(create_app(ranker, ServingOptions(request_timeout_seconds=0.3))) as client:
        texts = [" ".join([f"큰 글 {place}"] * 1_000) for place in range(50)]
        assert client.post("/rerank", json={"query": QUERY, "documents": texts}).status_code == 429
        ranker.calls.clear()
        # A small one does not wait for it.
        assert client.post("/rerank", json={"query": QUERY, "documents": ["작은 글"]}).status_code == 200
        leave.set()
    assert len(begun) == 1
    assert ranker.calls == [["작은 글"]]


def test_what_was_left_as_it_came_is_named_in_the_warnings() -> None:
    dear = yaml.dump({f"key {n}": "it's" for n in range(20_000)})
    documents = ["보통 글", dear, yaml.dump({"text": "서울 '부산'"})]
    with TestClient(create_app(StubRanker())) as client:
        answer = client.post("/rerank", json={"query": QUERY, "documents": documents}).json()
        logits = client.post("/invocations", json={"format": "logits", "query": QUERY, "documents": documents}).json()
        asked = client.post("/rerank", json={"query": dear, "documents": documents[::2]}).json()
    [warning] = [warning for warning in answer["meta"]["warnings"] if "read as sent" in warning]
    assert "1 of 3 documents (index 1)" in warning
    assert logits["unrepaired"] == [1]
    [warning] = [warning for warning in asked["meta"]["warnings"] if "read as sent" in warning]
    assert warning.endswith("the query")
