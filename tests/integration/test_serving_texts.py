"""What texts do to a real server: whatever form a document comes in, it is ranked, and the same text gets the same score."""

from __future__ import annotations

import json
import unicodedata
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from serving_process import Server, serving

from ko_reranker.samples import tiny_model

QUERY = "서울특별시의 인구는 몇 명인가?"
PASSAGES = [
    "서울특별시의 인구는 약 940만 명이며 대한민국에서 인구가 가장 많은 도시이다. (2024년 기준)",
    '부산광역시는 항구 도시이며 "해운대"로 유명하다.\n둘째 줄이다.',
    "함수를 호출하면 컴파일러가 인수의 형식에 맞는 함수를 고릅니다.",
    "좋아요 😀👍🏽 다시 갈게요",
    "The quick brown fox jumps over the lazy dog.",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base: Path = tmp_path_factory.mktemp("ml")
    tiny_model.build(base / "model")
    # The demonstration model reads 128 tokens at a time, a real one 512 or more.
    with serving(base, base / "log", KO_RERANKER_MAX_CHUNKS="400") as server:
        yield server


def ask(server: Server, documents: list, **options: object) -> dict:
    body = json.dumps({"query": QUERY, "documents": documents, "raw_scores": True, **options}).encode()
    request = urllib.request.Request(f"{server.url}/v2/rerank", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def scores(server: Server, documents: list, **options: object) -> list[float]:
    """Return the documents' logits, in their order."""
    results = ask(server, documents, **options)["results"]
    return [item["relevance_score"] for item in sorted(results, key=lambda item: item["index"])]


@pytest.mark.parametrize(
    "mangle",
    [
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
        lambda text: yaml.dump(text),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: f"\ufeff{text}\x00",
        lambda text: {"text": text},
    ],
    ids=["escaped", "escaped twice", "yaml", "nfd", "bom and nul", "object"],
)
def test_a_mangled_document_scores_exactly_like_the_plain_one(server: Server, mangle) -> None:
    assert scores(server, [mangle(text) for text in PASSAGES[:4]]) == pytest.approx(scores(server, PASSAGES[:4]), abs=1e-5)


def test_a_mangled_query_is_the_plain_one(server: Server) -> None:
    plain = scores(server, PASSAGES)
    assert scores(server, PASSAGES, query=json.dumps(QUERY)[1:-1]) == pytest.approx(plain, abs=1e-5)
    assert scores(server, PASSAGES, query=unicodedata.normalize("NFD", QUERY)) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("unicode", [True, False])
def test_a_record_sent_as_yaml_scores_like_the_object(server: Server, unicode: bool) -> None:
    records = [{"제목": f"{number}번 문서", "본문": f"{text} " * 5, "쪽": number} for number, text in enumerate(PASSAGES)]
    dumped = [yaml.dump(record, sort_keys=False, allow_unicode=unicode) for record in records]
    assert scores(server, dumped) == pytest.approx(scores(server, records), abs=1e-5)


def test_the_answer_at_the_end_of_a_long_document_is_found(server: Server) -> None:
    # What an untrained model likes is chance: the answer is the passage that it likes best.
    fillers = [f"{text} " * (20_000 // len(text)) for text in PASSAGES]
    answers = [filler[:1_000] for filler in fillers]
    nothing, filler = min(zip(scores(server, fillers), fillers, strict=True))
    something, answer = max(zip(scores(server, answers), answers, strict=True))
    long = filler[:19_000] + answer
    assert something > nothing and len(long) == 20_000
    whole = scores(server, [long])[0]
    assert whole > scores(server, [long], max_chunks_per_doc=1)[0]
    assert whole > nothing
    warnings = ask(server, [long, "짧은 문서"])["meta"]["warnings"]
    assert any("several chunks" in warning and "1 of 2" in warning for warning in warnings)


def test_what_is_left_unread_is_a_warning(server: Server) -> None:
    long = "서울의 인구는 약 940만 명이다. " * 500
    for options in ({"max_chunks_per_doc": 2}, {"max_tokens_per_doc": 150}):
        answer = ask(server, ["짧은 문서", long], **options)
        assert any("not read: 1 of 2 documents (index 1)" in warning for warning in answer["meta"]["warnings"])
    assert ask(server, [PASSAGES[0]], max_tokens_per_doc=1_000)["meta"]["warnings"] == []


def test_fewer_tokens_are_read_where_fewer_are_asked_for(server: Server) -> None:
    read = [ask(server, PASSAGES[:1], max_tokens_per_doc=limit)["usage"]["total_tokens"] for limit in (1, 5, 10_000)]
    assert read[0] + 4 == read[1] < read[2]


def test_empty_and_blank_documents_come_last_and_fail_nothing(server: Server) -> None:
    documents = ["", PASSAGES[0], " \n\t", "\u3000", "\ufeff", '"', PASSAGES[2], "\ud83d"]
    results = ask(server, documents, raw_scores=False)["results"]
    assert sorted(item["index"] for item in results) == list(range(len(documents)))
    blank = {0, 2, 3, 4}
    assert {item["index"] for item in results[-len(blank) :]} == blank
    assert all(item["relevance_score"] == 0.0 for item in results[-len(blank) :])


def test_two_thousand_documents_come_back_once_each_in_order(server: Server) -> None:
    documents = [f"{number}번째 문서: {PASSAGES[number % len(PASSAGES)]}" for number in range(2_000)]
    answer = ask(server, documents)
    results = answer["results"]
    assert sorted(item["index"] for item in results) == list(range(2_000))
    values = [item["relevance_score"] for item in results]
    assert values == sorted(values, reverse=True)
    alone = scores(server, documents[1_234:1_237])
    together = {item["index"]: item["relevance_score"] for item in results}
    assert [together[index] for index in range(1_234, 1_237)] == pytest.approx(alone, abs=1e-4)
    assert answer["meta"]["billed_units"]["search_units"] == 20
