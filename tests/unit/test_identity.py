"""One normal form decides what is the same text: what a reader can't tell apart stands on one side, and is no negative."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_reranker.data.records import RecordError, parse_record
from ko_reranker.data.splits import Groups, split_of
from ko_reranker.text import identity, is_blank, normalise

TEXT = "환불은 며칠 걸리나요? Café"
TWINS = {
    "decomposed": unicodedata.normalize("NFD", TEXT),
    "byte-order mark": "\ufeff" + TEXT,
    "byte-order mark within": TEXT.replace(" ", "\ufeff ", 1),
    "zero-width space": TEXT.replace("은", "은\u200b"),
    "joiner": TEXT.replace("은", "은\u2060"),
    "soft hyphen": TEXT.replace("며칠", "며\u00ad칠"),
    "Hangul filler": TEXT + "\u3164",
    "variation selector": TEXT + "\ufe0f",
    "direction mark": "\u200e" + TEXT,
    "case": TEXT.upper(),
    "width": TEXT.replace("?", "？").replace("C", "Ｃ"),
    "no-break and ideographic spaces": TEXT.replace(" ", "\u00a0\u3000"),
    "control characters": TEXT.replace(" ", "\x00 "),
    "escaped": TEXT.encode("unicode_escape").decode(),
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_spellings_of_one_text_are_the_same_text(twin: str) -> None:
    assert twin != TEXT
    assert identity(twin) == identity(TEXT)


@pytest.mark.parametrize(
    "other", ["환불은 며칠 걸리나요! Café", "환불은 몇일 걸리나요? Café", "환불은 며칠 걸리나요? Cafe", TEXT + " 2", ""]
)
def test_other_texts_are_others(other: str) -> None:
    assert identity(other) != identity(TEXT)


@pytest.mark.parametrize(("one", "other"), [("x² 는?", "x2 는?"), ("①번", "1번"), ("H₂O", "H2O")])
def test_what_means_something_else_stays_something_else(one: str, other: str) -> None:
    assert identity(one) != identity(other)


def test_an_ordinary_text_is_what_it_was_before() -> None:
    """The split of texts that are spelt in the usual way has not moved."""
    for text in ("  What IS\n a cross-encoder?\t", "서울의  인구는 940만 명이다. (2024년, ‘통계청’)", "大韓民國 ソウル"):
        assert identity(text) == " ".join(text.split()).casefold()


@given(st.text())
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    assert identity(identity(text)) == identity(text)


@given(st.text(alphabet=st.characters(exclude_characters="\\'\":", exclude_categories=["Cs"])))
def test_what_a_model_reads_alike_is_the_same_text(text: str) -> None:
    assert identity(normalise(text)) == identity(text.replace("\ufeff", " ")) or "\ufeff" in text


def test_it_is_linear_in_the_text() -> None:
    def seconds(length: int) -> float:
        text = "a\u0301\u0323" * length + "\u200b" * length + "\\uc11c" * length
        before = time.process_time()
        identity(text)
        return time.process_time() - before

    assert seconds(80_000) < 40 * max(seconds(8_000), 1e-3)


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\u3164", "\ufeff\u00ad", "\u2800", "\x00\x1f", "\u115f\u1160"])
def test_a_text_of_what_is_not_drawn_is_blank(text: str) -> None:
    assert is_blank(text)
    for row in ({"query": text, "pos": ["p"]}, {"query": "q", "pos": [text]}, {"query": "q", "pos": ["p"], "neg": [text]}):
        with pytest.raises(RecordError, match="blank"):
            parse_record(row)


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_twins_are_never_divided(twin: str) -> None:
    assert split_of(twin, 0.5) == split_of(TEXT, 0.5)
    groups = Groups(0.5)
    handles = [groups.add(f"query {n}", f"질문 {n}", (f"정답 {n}",)) for n in range(40)]
    queries = [groups.add(TEXT, TEXT, ("정답 가",)), groups.add(twin, twin, ("정답 나",))]
    positives = [groups.add("one", "하나", (TEXT + " 정답",)), groups.add("two", "둘", (twin + " 정답",))]
    assert len({groups.split(handle) for handle in handles}) == 2
    assert len({groups.split(handle) for handle in queries}) == 1
    if "\\" not in twin:  # what is half escaped is no program's escaping
        assert len({groups.split(handle) for handle in positives}) == 1


def test_spellings_of_a_query_that_were_translated_in_two_ways_are_one_query() -> None:
    for n in range(20):
        groups = Groups(0.5)
        for other in range(20):
            groups.add(f"{n} {other}", f"다른 {other}", (f"답 {other}",))
        ties = [groups.add(f"bridge {n} {k}", f"다리 {k}", (f"같은 답 {k}",)) for k in range(2)]
        one = groups.add(f"What is {n}?", f"{n} 번은 무엇입니까?", ("같은 답 0",))
        two = groups.add(f"WHAT IS {n}?", f"{n} 번이란?", ("같은 답 1",))
        assert len({groups.split(handle) for handle in (*ties, one, two)}) == 1


@pytest.mark.parametrize(("given", "kept"), [(42.0, "42"), (42.5, "42.5"), (7, "7"), ("", ""), ("\u200b", "\u200b")])
def test_an_id_costs_no_record(given: object, kept: str) -> None:
    assert parse_record({"id": given, "query": "q", "pos": ["p"]}).id == kept
