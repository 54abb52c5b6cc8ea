"""Answers that should be orders: whatever a model writes, every document comes once, and what was wrong is counted."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.rankers.permutations import Faults, parse_order

NUMBERS, LETTERS = [str(number) for number in range(1, 13)], list(string.ascii_uppercase[:12])

# Of three documents: what was written, the order, and the counts of misshapen, repeated, unknown, missing.
ANSWERS = [
    ("[2] > [1] > [3]", [1, 0, 2], (0, 0, 0, 0)),
    (" [2] > [1] > [3]\n", [1, 0, 2], (0, 0, 0, 0)),
    ("[3] > [1]", [2, 0, 1], (0, 0, 0, 1)),
    ("[3]", [2, 0, 1], (0, 0, 0, 2)),
    ("", [0, 1, 2], (1, 0, 0, 3)),
    ("   \n", [0, 1, 2], (1, 0, 0, 3)),
    ("[2]>[1]>[3]", [1, 0, 2], (1, 0, 0, 0)),
    ("[2], [1], [3]", [1, 0, 2], (1, 0, 0, 0)),
    ("[2, 1, 3]", [1, 0, 2], (1, 0, 0, 0)),
    ("[2 > 1 > 3]", [1, 0, 2], (1, 0, 0, 0)),
    ("2 > 1 > 3", [1, 0, 2], (1, 0, 0, 0)),
    ("213", [0, 1, 2], (1, 0, 1, 3)),
    ("[2] > [2] > [1]", [1, 0, 2], (0, 1, 0, 1)),
    ("[2] > [2] > [2] > [2]", [1, 0, 2], (0, 3, 0, 2)),
    ("[4] > [2] > [1] > [3]", [1, 0, 2], (0, 0, 1, 0)),
    ("[0] > [2]", [1, 0, 2], (0, 0, 1, 2)),
    ("[02] > [01] > [03]", [1, 0, 2], (0, 0, 0, 0)),
    ("[-2] > [1]", [1, 0, 2], (1, 0, 0, 1)),
    ("[2.5] > [1]", [1, 0, 2], (1, 0, 1, 1)),
    ("[2] > [1] > [3] > ", [1, 0, 2], (1, 0, 0, 0)),
    ("[2] > [1] > [", [1, 0, 2], (1, 0, 0, 1)),
    ("[2] > [1", [1, 0, 2], (1, 0, 0, 2)),
    ("[[2]] > [[1]] > [[3]]", [1, 0, 2], (1, 0, 0, 0)),
    ("Ranking: [2] > [1] > [3].", [1, 0, 2], (1, 0, 0, 0)),
    ("Of these 3 passages: [2] > [1] > [3]", [1, 0, 2], (1, 0, 0, 0)),
    ("Passage 2 is best, then passage 1, then 3.", [1, 0, 2], (1, 0, 0, 0)),
    ("2번 문서가 가장 관련이 있고, 다음은 1번, 3번입니다.", [1, 0, 2], (1, 0, 0, 0)),
    ("1. Passage 2\n2. Passage 1\n3. Passage 3", [1, 0, 2], (1, 0, 0, 0)),
    ("1. [2]\n2. [1]\n3. [3]", [1, 0, 2], (1, 0, 0, 0)),
    ("1) 2\n2) 1\n3) 3", [1, 0, 2], (1, 0, 0, 0)),
    ("<think>[3] > [1]? No.</think>[2] > [1] > [3]", [1, 0, 2], (0, 0, 0, 0)),
    ("<think>\n\n</think>\n\n[2] > [1] > [3]", [1, 0, 2], (0, 0, 0, 0)),
    ("</think>[3]</think>[2]", [1, 0, 2], (0, 0, 0, 2)),
    ("<think>I never come to an end, [3", [2, 0, 1], (1, 0, 0, 2)),
    ("②①③", [1, 0, 2], (1, 0, 0, 0)),
    ("[②] > [①] > [③]", [1, 0, 2], (1, 0, 0, 0)),
    ("［２］ ＞ ［１］ ＞ ［３］", [1, 0, 2], (0, 0, 0, 0)),
    ("² > ¹ > ³", [1, 0, 2], (1, 0, 0, 0)),
    ("[" + "9" * 6_000 + "] > [2]", [1, 0, 2], (0, 0, 1, 2)),
    ("I cannot rank these passages.", [0, 1, 2], (1, 0, 0, 3)),
    ("관련 있는 문서가 없습니다.", [0, 1, 2], (1, 0, 0, 3)),
    ("[A] > [B]", [0, 1, 2], (1, 0, 0, 3)),
    ("[]", [0, 1, 2], (1, 0, 0, 3)),
    ("(2) > (1) > (3)", [1, 0, 2], (1, 0, 0, 0)),
    ("[2] < [1] < [3]", [1, 0, 2], (1, 0, 0, 0)),
    ("[2]\n[1]\n[3]", [1, 0, 2], (1, 0, 0, 0)),
    ("[Passage 2] > [Passage 1]", [1, 0, 2], (1, 0, 0, 1)),
    ('{"ranking": [2, 1, 3]}', [1, 0, 2], (1, 0, 0, 0)),
    ("[٢] > [1]", [0, 1, 2], (1, 0, 0, 2)),
    ("\x00\ud800[2]\ufeff", [1, 0, 2], (1, 0, 0, 2)),
]


@pytest.mark.parametrize(("answer", "order", "faults"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_is_understood_as_far_as_it_can_be(answer, order, faults):
    assert parse_order(answer, NUMBERS[:3]) == (order, Faults(*faults))


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("[B] > [A] > [C]", [1, 0, 2]),
        ("[b] > [a]", [1, 0, 2]),
        ("B", [1, 0, 2]),
        ("B가 A보다 낫습니다.", [1, 0, 2]),
        ("Passage B, then passage C", [1, 2, 0]),
        ("[D] > [C]", [2, 0, 1]),
        ("Best of all: none", [0, 1, 2]),
        ("Ｂ > Ａ", [1, 0, 2]),
        ("2 > 1", [0, 1, 2]),
    ],
)
def test_letters_are_understood_as_numbers_are(answer, order):
    assert parse_order(answer, LETTERS[:3])[0] == order


PIECES = st.sampled_from(["[", "]", " > ", ",", "\n", "1. ", "1", "2", "12", "99", "A", "b", "①", "가", "</think>", "\ud800"])


@settings(max_examples=200, deadline=None)
@given(
    answer=st.text(max_size=60) | st.lists(PIECES, max_size=30).map("".join),
    labels=st.integers(0, 12).flatmap(lambda count: st.sampled_from([NUMBERS[:count], LETTERS[:count]])),
)
def test_whatever_is_written_gives_an_order_of_all_documents(answer, labels):
    order, faults = parse_order(answer, labels)
    assert sorted(order) == list(range(len(labels)))
    assert 0 <= faults.missing <= len(labels) and 0 <= faults.misshapen <= 1
    named = len(labels) - faults.missing
    assert order[named:] == sorted(order[named:]), "what was not named stays in its order"


@settings(max_examples=60, deadline=None)
@given(order=st.integers(1, 12).flatmap(lambda count: st.permutations(range(count))), letters=st.booleans())
def test_a_right_answer_is_taken_as_it_is(order, letters):
    labels = (LETTERS if letters else NUMBERS)[: len(order)]
    assert parse_order(" > ".join(f"[{labels[place]}]" for place in order), labels) == (order, Faults())
