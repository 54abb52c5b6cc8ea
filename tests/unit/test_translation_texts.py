"""Packing, splitting, recognising and judging texts, over arbitrary Unicode."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.data.translation.packing import is_packable, packed, packs, unpacked
from ko_reranker.data.translation.quality import problem
from ko_reranker.data.translation.sentences import split_text
from ko_reranker.data.translation.texts import Segment, TranslationSettings, assemble, parts_of
from ko_reranker.languages import KOREAN

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
    segments = [Segment(str(index), text) for index, text in enumerate(contents)]
    made = list(packs(segments, limit, most=7))
    assert sorted((segment for pack in made for segment in pack), key=lambda segment: int(segment.key)) == segments
    for pack in made:
        assert 1 <= len(pack) <= 7
        assert len(pack) == 1 or len(packed([segment.text for segment in pack]).encode()) <= limit
        assert len(pack) == 1 or all(is_packable(segment.text) for segment in pack)


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
    parts = parts_of(text, SETTINGS, limit)
    same = {part.segment.key: part.segment.text for part in parts if part.segment}
    assert assemble(parts, same) == text.strip()
    assert all(part.segment.size <= limit and part.segment.text == part.segment.text.strip() for part in parts if part.segment)


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
        ("Visual Studio 2022", "Visual Studio 2022", None),
        ("Windows Server 2019 IIS 10.0", "Windows Server 2019 IIS 10.0", None),
        ("SELECT name FROM users WHERE age > 30;", "SELECT name FROM users WHERE age > 30;", None),
        ("int main() { return a[0]; }", "int main() { return a[0]; }", None),
        ("Getting Started", "Getting Started", "came back as it was"),
        ("It works in Visual Studio 2022.", "It works in Visual Studio 2022.", "came back as it was"),
        ("The Kiwi app is free.", "__DNT0__ 앱은 무료입니다.", "marker of the service"),
        ("The Kiwi app is free.", "<dnt>Kiwi</dnt> 앱은 무료입니다.", "marker of the service"),
        ("The Kiwi app is free.", '<span translate="no">Kiwi</span> 앱은 무료입니다.', "marker of the service"),
        ("Wrap names in <dnt> tags.", "이름을 <dnt> 태그로 감싸십시오.", None),
        ("See [the guide](../guide.md#a).", "[안내서](../guide.md#a)를 참조하십시오.", None),
        ("See [the guide](../guide.md#a).", "[안내서] (../guide.md#a)를 참조하십시오.", "other links"),
        ("See [the guide](../guide.md#a).", "[안내서](../안내서.md#a)를 참조하십시오.", "other links"),
        ("See [it](https://a.b/en-us/c).", "[이것](https://a.b/ko-kr/c)을 참조하십시오.", None),
        ("Refunds take 30 days.", "환불은 3일 걸립니다.", "other numbers"),
        ("Refunds take 7 days.", "환불은 17일 걸립니다.", "other numbers"),
        ("It has 1,250 users in 2024.", "2024년 사용자는 1250명입니다.", None),
        ("It has 1.5 million users.", "사용자가 150만 명입니다.", None),
        ("On June 5, 2020, two of them left.", "2020년 6월 5일에 2명이 떠났습니다.", None),
        ("errno, _doserrno, _sys_errlist, and _sys_nerr", "errno, _doserrno, _sys_errlist 및 _sys_nerr", None),
    ],
)
def test_what_is_accepted_as_a_translation(source, translation, reason):
    found = problem(source, translation, KOREAN)
    assert found is None if reason is None else reason in str(found)
