"""A language is one thing: what checks, searches and mines reads it there, and a target that nobody knows is refused early."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ko_reranker import languages
from ko_reranker.cli import app
from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.records import TrainingRecord
from ko_reranker.data.translation.quality import problem
from ko_reranker.data.translation.texts import TranslationSettings
from ko_reranker.evaluation.bm25 import Bm25
from ko_reranker.evaluation.candidates import candidate_sets
from ko_reranker.evaluation.questions import Question, TestSet
from ko_reranker.languages import KOREAN, Language
from training_job.mine import MiningSettings, mine_records


def _backwards(workers: int) -> languages.Analyser:
    def analyse(texts: Sequence[str]) -> list[list[str]]:
        return [[f"{word[-1]}/LAST" for word in text.split()] for text in texts]

    return analyse


# Written in digits only, and searched by the last digit of each number.
DIGITS = replace(
    KOREAN, code="xx", name="Digits", script=re.compile(r"[α-ω]"), length_ratios=((1, 1.0, 1.0),), analyser=_backwards
)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Language:
    monkeypatch.setitem(languages.LANGUAGES, DIGITS.code, DIGITS)
    return DIGITS


@pytest.mark.parametrize("language", languages.LANGUAGES.values(), ids=lambda language: language.code)
def test_a_language_knows_itself_and_looks_least_at_the_shortest(language: Language) -> None:
    assert languages.find(language.code) is language
    assert re.fullmatch("[a-z]{2}(-[A-Z]{2})?", language.code)
    for bounds in (language.least_shares, language.length_ratios):
        sizes = [size for size, *_ in bounds]
        assert sizes == sorted(sizes, reverse=True), "the first that fits is taken"


def test_korean_is_found_by_its_letters_and_cut_into_what_carries_meaning() -> None:
    assert KOREAN.owns("Windows API를 사용하는 방법") and not KOREAN.owns("The word 한 means one, or Korean")
    [terms] = KOREAN.analyser(1)(["서울에서 학교를 다녔습니다"])
    assert terms == ["서울/NN", "학교/NN", "다니/VV"]


@pytest.mark.parametrize("code", ["ja", "ko-KR", "auto", ""])
def test_a_target_that_nobody_knows_is_refused_with_those_that_are_known(code: str) -> None:
    with pytest.raises(languages.UnknownLanguageError, match=r"must be ko \(Korean\)"):
        languages.find(code)


def test_a_language_decides_what_is_translated_and_what_is_accepted(digits: Language) -> None:
    settings = TranslationSettings("en", "xx")
    assert [settings.treatment(text) for text in ("αβγ", "abc", "123")] == ["target_language", "translate", "no_letters"]
    assert problem("one two", "αβγ δεζ", settings.target) is None
    assert "times as long" in str(problem("one two", "αβγ δεζ η", settings.target))
    assert "the script of xx" in str(problem("one two", "하나 둘", settings.target))


def test_a_language_is_searched_by_its_own_analyser(digits: Language) -> None:
    bm25 = Bm25(["11 22", "33 44"], language=digits, terms="morphemes")
    assert bm25.score("94", bm25.passages).argmax() == 1, "they share the last digit"
    question = Question("94", {"33 44": 1}, "digits")
    [found] = candidate_sets(TestSet([question], ["11 22", "33 44"], language=digits), "morphemes", 2, 0)
    assert found.documents == ("33 44",)


def test_a_language_is_mined_by_its_own_analyser(digits: Language) -> None:
    records = [TrainingRecord("94", ("10 20",), ()), TrainingRecord("55", ("33 44",), ())]
    settings, counts = MiningSettings(negatives=1, rank_from=1), Counter[str]()
    mined = next(iter(mine_records(records, settings, counts, language=digits)))
    assert (mined.negatives, counts["mined"]) == (("33 44",), 1)


@pytest.mark.parametrize(("manifest", "code"), [(None, "ko"), ({}, "ko"), ({"request": {"target_language": "xx"}}, "xx")])
def test_a_dataset_says_its_language(digits: Language, tmp_path: Path, manifest: dict | None, code: str) -> None:
    folders = ProcessingFolders(tmp_path)
    folders.dataset.mkdir(parents=True)
    if manifest is not None:
        (folders.dataset / "manifest.json").write_text(json.dumps(manifest))
    assert folders.language.code == code


def test_a_dataset_in_another_language_is_no_jobs_to_judge(tmp_path: Path) -> None:
    folders = ProcessingFolders(tmp_path)
    folders.dataset.mkdir(parents=True)
    (folders.dataset / "manifest.json").write_text('{"request": {"target_language": "ja"}}')
    with pytest.raises(JobError, match="target_language must be ko"):
        _ = folders.language


@pytest.mark.parametrize(
    "command",
    [
        ["retrain", "--input", '{"target_language": "ja"}'],
        ["data", "plan", "--target-language", "ja", __file__],
        ["evaluate", "--data", __file__, "--language", "ja", "--model", "bm25:morphemes"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_refuses_it_before_it_asks_anybody(command: list[str]) -> None:
    done = CliRunner().invoke(app, command)
    assert done.exit_code
    assert "must be ko (Korean), is 'ja'" in f"{done.output}{done.exception}"
