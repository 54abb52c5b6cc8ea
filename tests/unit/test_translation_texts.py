"""Packing, splitting, recognising and judging texts, over arbitrary Unicode."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.data.translation.language import is_in_language
from ko_reranker.data.translation.packing import is_packable, packed, packs, unpacked
from ko_reranker.data.translation.quality import problem
from ko_reranker.data.translation.sentences import split_text
from ko_reranker.data.translation.texts import TranslationSettings, Unit, assemble, pieces_of

SETTINGS = TranslationSettings("en", "ko")
anything = st.text(st.characters(exclude_categories=["Cs"]))
awkward = st.text(st.sampled_from("ab. \n\r\u2028\u0301\u200d👩🏽가각!?0\t\x85"), max_size=60)
texts = st.one_of(anything, awkward)


@given(texts, st.integers(4, 40))
def test_parts_of_a_split_text_join_to_the_text_and_fit(text, limit):
    parts = split_text(text, limit)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit for part in parts)
    assert all(parts) or text == ""


def test_texts_are_cut_after_sentences_then_at_spaces_then_between_characters():
    assert split_text("One two. Three four. Five", 18) == ["One two. ", "Three four. Five"]
    assert split_text("one two three four", 10) == ["one two ", "three four"]
    assert split_text("가나다라", 7) == ["가나", "다라"]
    assert split_text("abcde\u0301f", 6) == ["abcd", "e\u0301f"], "a letter keeps its accent"


@given(st.lists(texts.map(str.strip).filter(bool), max_size=30), st.integers(20, 300))
def test_packs_hold_every_unit_once_in_order_and_fit(contents, limit):
    units = [Unit(str(index), text) for index, text in enumerate(contents)]
    made = list(packs(units, limit, most=7))
    assert sorted((unit for pack in made for unit in pack), key=lambda unit: int(unit.key)) == units
    for pack in made:
        assert 1 <= len(pack) <= 7
        assert len(pack) == 1 or len(packed([unit.text for unit in pack]).encode()) <= limit
        assert len(pack) == 1 or all(is_packable(unit.text) for unit in pack)


@given(st.lists(texts.map(str.strip).filter(bool).filter(is_packable), min_size=1, max_size=12))
def test_an_answer_that_keeps_the_lines_comes_back_one_to_one(contents):
    answer = packed([text.upper() for text in contents])
    translations = unpacked(contents, answer)
    # Upper case of one character may hold a line's whole difference; the lines stay.
    assert translations is not None
    assert translations == [text.upper().strip() for text in contents]


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=2, max_size=8), st.data())
def test_an_answer_with_a_line_lost_or_added_is_refused(contents, data):
    lines = packed(contents).split("\n")
    place = data.draw(st.integers(0, len(lines) - 1))
    assert unpacked(contents, "\n".join(lines[:place] + lines[place + 1 :])) is None
    assert unpacked(contents, "\n".join([*lines[:place], "x", *lines[place:]])) is None
    assert unpacked(contents, "\n".join([*lines[:place], "", *lines[place + 1 :]])) is None


def test_a_number_that_moved_to_its_neighbour_gives_a_shift_away():
    contents = ["built in 1995", "length 4520 km", "the river"]
    assert unpacked(contents, "1995년\n길이 4520 km\n강") == ["1995년", "길이 4520 km", "강"]
    assert unpacked(contents, "건설\n1995년 길이\n4520 km 강") is None
    assert unpacked(["about 10000", "the river"], "약 1만\n강") == ["약 1만", "강"], "a number may be written otherwise"


@settings(max_examples=60)
@given(texts, st.integers(12, 50))
def test_a_text_is_put_together_from_its_pieces_as_it_was(text, limit):
    pieces = pieces_of(text, SETTINGS, limit)
    same = {piece.unit.key: piece.unit.text for piece in pieces if piece.unit}
    assert assemble(pieces, same) == text.strip()
    assert all(piece.unit.size <= limit and piece.unit.text == piece.unit.text.strip() for piece in pieces if piece.unit)


@given(texts)
def test_white_space_around_a_text_makes_it_no_other_text(text):
    assert SETTINGS.key(text) == SETTINGS.key(f"  {text}\n")


@pytest.mark.parametrize(
    ("text", "treatment"),
    [
        ("What is it?", "translate"),
        ("서울은 대한민국의 수도이다.", "target_language"),
        ("Windows API를 사용하는 방법", "target_language"),
        ("The word 한 means one, or Korean", "translate"),
        ("2024-01-01 (3.5%)", "no_letters"),
        ("東京", "translate"),
    ],
)
def test_what_becomes_of_a_text(text, treatment):
    assert SETTINGS.treatment(text) == treatment


def test_latin_script_proves_no_language():
    assert not is_in_language("Guten Tag", "de")


@pytest.mark.parametrize(
    ("source", "translation", "reason"),
    [
        ("What is it?", "그것은 무엇입니까?", None),
        ("What is it?", " \n", "came back empty"),
        ("What is  it?", "what is it?", "came back as it was"),
        ("HDMI", "HDMI", None),
        ("errno_t", "errno_t", None),
        ("hello", "hello", "came back as it was"),
        ("What is it?", "C'est quoi?", "came back with 0% of its 8 letters"),
        (
            "A fairly long sentence about nothing much at all, " * 4,
            "가 " + "and it was never translated by anybody " * 4,
            "of its",
        ),
        ("A fairly long sentence about nothing much at all, " * 4, "가나다", "times as long"),
        ("A short sentence of words.", "가" * 200, "times as long"),
        ("errno, _doserrno, _sys_errlist, and _sys_nerr", "errno, _doserrno, _sys_errlist 및 _sys_nerr", None),
    ],
)
def test_what_is_accepted_as_a_translation(source, translation, reason):
    found = problem(source, translation, "ko")
    assert found is None if reason is None else reason in str(found)
