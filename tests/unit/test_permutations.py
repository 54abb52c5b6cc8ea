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
    ("[2.5] > [1]", [0, 1, 2], (1, 0, 1, 2)),
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

# Every way to say that the third is best, then the first, then the second, in which other numbers say places.
NAMED_WITH_PLACES = [
    "Rank 1: Passage 3\nRank 2: Passage 1\nRank 3: Passage 2",
    "Rank 1: Passage 3 / Rank 2: Passage 1 / Rank 3: Passage 2",
    "Rank [1]: [3]\nRank [2]: [1]\nRank [3]: [2]",
    "Rank #1 - 3\nRank #2 - 1\nRank #3 - 2",
    "Top 1 -> Document 3\nTop 2 -> Document 1\nTop 3 -> Document 2",
    "Top 3: 3 > 1 > 2",
    "Ranking: 3 > 1 > 2",
    "Rank: 3 > 1 > 2",
    "Rank: 3, 1, 2",
    "1st: Passage 3, 2nd: Passage 1, 3rd: Passage 2",
    "1st place: 3\n2nd place: 1\n3rd place: 2",
    "1. [3]\n2. [1]\n3. [2]",
    "**1.** Passage 3\n**2.** Passage 1\n**3.** Passage 2",
    "[1] Passage 3\n[2] Passage 1\n[3] Passage 2",
    "(1) Passage 3\n(2) Passage 1\n(3) Passage 2",
    "#1: Passage 3\n#2: Passage 1\n#3: Passage 2",
    "1 - Passage 3\n2 - Passage 1\n3 - Passage 2",
    "| Rank | Document |\n|---|---|\n| 1 | Passage 3 |\n| 2 | Passage 1 |\n| 3 | Passage 2 |",
    "Passage 3 > Passage 1 > Passage 2",
    "passage_3 > passage_1 > passage_2",
    "1) Passage 3: names 2 cities\n2) Passage 1: names 3\n3) Passage 2: of 2019",
    "3번 문서는 2가지를, 1번 문서는 1가지를 말하고 2번 문서는 아무것도 말하지 않습니다.",
    "Passage 3 (0.93), Passage 1 (0.5), Passage 2 (0.04)",
    "Passage 3 (score: 9/10)\nPassage 1 (score: 7/10)\nPassage 2 (score: 1/10)",
    "Passage 1 is at rank 2, passage 2 at rank 3, and passage 3 at rank 1.",
    '{"ranking": [3, 1, 2]}',
    '["Passage 3", "Passage 1", "Passage 2"]',
    '[{"rank": 1, "id": 3}, {"rank": 2, "id": 1}, {"rank": 3, "id": 2}]',
    '[{"id": 1, "rank": 2}, {"id": 2, "rank": 3}, {"id": 3, "rank": 1}]',
    '{"1": 3, "2": 1, "3": 2}',
    '```json\n{"1": "Passage 3", "2": "Passage 1", "3": "Passage 2"}\n```',
    "1위: 문서 3\n2위: 문서 1\n3위: 문서 2",
    "1위: 문서 3, 2위: 문서 1, 3위: 문서 2",
    "1위 - 3번 문서\n2위 - 1번 문서\n3위 - 2번 문서",
    "순위 1: 문서 3\n순위 2: 문서 1\n순위 3: 문서 2",
    "1순위 3, 2순위 1, 3순위 2",
    "순위: 3번, 1번, 2번",
    "문서 3개를 순서대로 놓으면 3 > 1 > 2입니다.",
    "문서 1은 2위, 문서 2는 3위, 문서 3은 1위",
    "1번째: 지문 3\n2번째: 지문 1\n3번째: 지문 2",
    "① 문서 3\n② 문서 1\n③ 문서 2",
    "3번 문서가 95%, 1번 문서가 40%, 2번 문서가 3% 관련됩니다.",
]
LETTERED = [
    "c > a > b",
    "c>a>b",
    "c, a, b",
    "c\na\nb",
    "c a b",
    "Ranking: c > a > b.",
    "(c) > (a) > (b)",
    "c → a → b",
    "passage c, then passage a, and then passage b",
    "Top 1 -> Document C\nTop 2 -> Document A\nTop 3 -> Document B",
    "Rank 1: Passage c\nRank 2: Passage a\nRank 3: Passage b",
    "Passage A: rank 2\nPassage B: rank 3\nPassage C: rank 1",
    "1. c\n2. a\n3. b",
    '["c", "a", "b"]',
    '{"ranking": "C > A > B"}',
    '{"1": "C", "2": "A", "3": "B"}',
    "1위: 문서 C\n2위: 문서 A\n3위: 문서 B",
    "문서 c가 가장 낫고, 문서 a, 문서 b 순입니다.",
    "C가 A보다, A가 B보다 낫습니다.",
    "c가 a보다, a가 b보다 낫습니다.",
    "c번, a번, b번",
    "I think that C > A > B.",
]


@pytest.mark.parametrize("answer", NAMED_WITH_PLACES)
def test_a_number_that_says_a_place_is_no_label(answer):
    order, faults = parse_order(answer, NUMBERS[:3])
    assert order == [2, 0, 1]
    assert (faults.misshapen, faults.missing) == (1, 0)


@pytest.mark.parametrize("answer", LETTERED)
def test_small_letters_and_places_beside_letters_are_understood(answer):
    order, faults = parse_order(answer, LETTERS[:12] if "I think" in answer else LETTERS[:3])
    assert order[:3] == [2, 0, 1]
    assert faults.misshapen == 1
    assert faults.missing == (9 if "I think" in answer else 0)


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("Rank 1: Passage 3", [2, 0, 1]),  # cut off
        ("2번째 문서가 가장 관련 있습니다.", [1, 0, 2]),
        ("Rank 2", [1, 0, 2]),
        ("2위", [1, 0, 2]),
        ('{"3": 0.9, "1": 0.5}', [2, 0, 1]),
        ("2. Seoul", [1, 0, 2]),
    ],
)
def test_where_places_are_all_that_there_is_they_are_labels(answer, order):
    assert parse_order(answer, NUMBERS[:3])[0] == order


@pytest.mark.parametrize("answer", ["a better one is not there", "there is vitamin c in it", "I cannot tell.", "I'm sorry."])
def test_words_of_one_letter_are_no_labels(answer):
    assert parse_order(answer, LETTERS) == (list(range(12)), Faults(misshapen=1, missing=12))


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


PIECES = st.sampled_from(
    [
        *("[", "]", " > ", ",", ":", "\n", "1. ", "1", "2", "12", "99", "0.5", "A", "b", "①", "가", "</think>", "\ud800"),
        *("Rank ", "Passage ", "문서 ", "위", "순위 ", "번", "1st", '"', "**", "score ", "%"),
    ]
)


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
