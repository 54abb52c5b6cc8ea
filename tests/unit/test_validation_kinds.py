"""The five kinds of question that choices about the mini reranker are made on."""

from __future__ import annotations

import re
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.languages import KOREAN
from training_job.mini_reranker.corpus import Corpus, side_of
from training_job.mini_reranker.kinds import KINDS, digest, validation_kinds
from training_job.mini_reranker.needle import POSITIONS, needle_table, summary

CITIES = ("서울", "부산", "대구", "인천", "광주", "대전", "울산", "수원", "창원", "전주")
SECTION = "항목을 열고 단추를 누르면 설정 창이 나타나고 여기서 값을 바꿀 수 있습니다."
LINES = [(f"Help line {number}, see number {number}.", f"도움말 {number}번 {SECTION}") for number in range(600)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Facts about cities and years: enough for each kind to have questions."""
    folder = tmp_path_factory.mktemp("data")
    facts = [
        (
            f"{year}년 {city}에서 열린 박람회의 관람객은 몇 명인가?",
            f"{city}에서는 박람회가 열린다. {year}년 {city}에서 열린 박람회는 관람객 {year * 7}명을 모았으며 여러 기업이 "
            f"새로운 제품을 선보였다. 개최 기간은 {year % 9 + 3}일이었고 다음 박람회는 {year + 3}년에 다시 열릴 예정이다.",
        )
        for city in CITIES
        for year in range(1950, 2010, 2)
    ]
    for name, rows in (("tydiqa_ko", facts[::2]), ("kobest_boolq", facts[1::2]), ("parallel_en_ko", [])):
        (folder / name).mkdir()
        write_jsonl(folder / name / "train.jsonl", [{"query": query, "pos": [passage], "neg": []} for query, passage in rows])
    for name in ("cpp", "libreoffice_help"):
        write_jsonl(folder / f"parallel_en_ko/{name}.jsonl.gz", [{"en": english, "ko": korean} for english, korean in LINES])
    return Corpus(folder)


def test_a_folder_gives_the_same_kinds_each_time(corpus: Corpus) -> None:
    kinds, again = validation_kinds(corpus), validation_kinds(Corpus(Path(corpus.folder)))
    assert set(kinds) == set(KINDS) == {"overlap", "long", "keywords", "numbers", "noise"}
    assert all(test_set.questions for test_set in kinds.values())
    assert {name: digest(test_set) for name, test_set in kinds.items()} == {
        name: digest(test_set) for name, test_set in again.items()
    }
    assert len({digest(test_set) for test_set in kinds.values()}) == len(kinds)


def test_every_right_passage_is_searched_and_of_the_validation_side(corpus: Corpus) -> None:
    seen = set(corpus.native_texts())
    for name, test_set in validation_kinds(corpus).items():
        passages = set(test_set.passages)
        assert not passages & seen
        for question in test_set.questions:
            assert question.query
            assert set(question.relevance) <= passages
            if name != "long":
                assert all(
                    "validation" in {side_of(right), side_of(right, with_held_out=False)} for right in question.relevance
                )


def test_reports_are_long_and_hold_their_passage(corpus: Corpus) -> None:
    validation = {record.query: record.positives[0] for record in corpus.tydi["validation"]}
    for question in KINDS["long"](corpus).questions:
        (report,) = question.relevance
        assert validation[question.query] in report
        assert len(report) > 2 * len(validation[question.query])


def test_keywords_are_the_questions_words_without_grammar(corpus: Corpus) -> None:
    for question in KINDS["keywords"](corpus).questions:
        assert len(question.query.split()) >= 2
        tags = [morpheme.rpartition("/")[2] for morpheme in KOREAN.analyser(1)([question.query])[0]]
        assert not {"VV", "VA"} & set(tags)


def test_altered_passages_differ_from_the_right_one_in_one_number(corpus: Corpus) -> None:
    test_set = KINDS["numbers"](corpus)
    shapes: dict[str, list[str]] = {}
    for passage in test_set.passages:
        shapes.setdefault(re.sub(r"\d+", "#", passage), []).append(passage)
    for question in test_set.questions:
        (right,) = question.relevance
        alike = [other for other in shapes[re.sub(r"\d+", "#", right)] if other != right]
        one = [other for other in alike if len({*zip(numbers(right), numbers(other), strict=True)} - same(right)) == 1]
        assert len(one) >= 6


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def same(text: str) -> set[tuple[str, str]]:
    return {(number, number) for number in numbers(text)}


def test_noise_is_one_fault_of_typing(corpus: Corpus) -> None:
    validation = [record.query for record in corpus.tydi["validation"]]
    faults = 0
    for query, question in zip(dict.fromkeys(validation), KINDS["noise"](corpus).questions, strict=True):
        typed = question.query
        faults += typed != query
        composed = normalize("NFC", typed)
        if len(composed) == len(query):
            assert sum(left != right for left, right in zip(composed, query, strict=True)) <= 1
        else:
            assert composed == query.replace(" ", "")
    assert faults > len(validation) / 2


class Finder:
    """Ranks a document by where the query's first word stands: nearer to its start is better."""

    def score(self, query: str, documents: list[str]) -> np.ndarray:
        word = " ".join(query.split()[:2])
        return np.array([-float(document.find(word)) if word in document else -1e9 for document in documents])


def test_the_needle_table_has_a_share_for_each_length_and_position(corpus: Corpus) -> None:
    table = needle_table(Finder(), corpus, lengths=(400, 900), questions=5)  # type: ignore[arg-type]
    assert list(table) == ["400", "900"]
    assert all(len(shares) == POSITIONS and all(0 <= share <= 1 for share in shares) for shares in table.values())
    # No other document names year and city, so that it wins wherever it stands.
    assert summary(table) == {"won": {"400": 1.0, "900": 1.0}, "least": 1.0}
