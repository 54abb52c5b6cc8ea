"""Hard negatives: near the query, not the answer, and the same for the same seed."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pytest

from ko_reranker.data.records import TrainingRecord, parse_record
from ko_reranker.text import identity
from training_job.false_negatives import Positives
from training_job.mine import MiningSettings, mine_records

TOPICS = ["한강", "백두산", "경복궁", "제주도", "낙동강", "설악산", "부산항", "첨성대"]
FACTS = ["길이", "높이", "역사", "위치", "날씨", "인구"]


@pytest.fixture(scope="module")
def records() -> list[TrainingRecord]:
    return [
        TrainingRecord(
            f"{topic}의 {fact}는 어떻게 됩니까?",
            (f"{topic}의 {fact}에 대한 설명입니다. {topic}은 유명한 {fact}을 가졌습니다.",),
        )
        for topic in TOPICS
        for fact in FACTS
    ]


def mined(records, counts=None, teacher=None, **settings):
    defaults = {"negatives": 3, "rank_from": 1, "rank_to": 12}
    return list(
        mine_records(records, MiningSettings(**defaults | settings), counts if counts is not None else Counter(), teacher)
    )


def test_negatives_share_words_with_the_query(records):
    counts: Counter[str] = Counter()
    out = mined(records, counts, max_overlap=1.0)
    near = sum(
        record.query.split("의")[0] in text or record.query.split()[1][:2] in text
        for record in out
        for text in record.negatives
    )
    assert near > 0.9 * sum(len(record.negatives) for record in out)
    assert counts["mined"] == 3 * len(records)
    assert all(not set(record.negatives) & set(record.positives) for record in out)


def test_the_seed_decides_and_nothing_else(records):
    assert mined(records) == mined(records)
    assert mined(records) != mined(records, seed=1)
    one_by_one = {record.query: record for record in mined(list(reversed(records)))}
    assert [one_by_one[record.query] for record in records] == mined(records), "the order of the records is no matter"


def test_what_is_missing_is_filled_at_random(records):
    counts: Counter[str] = Counter()
    out = mined(records, counts, negatives=20, rank_to=2)
    assert counts["random"] > 15 * len(records)
    assert {len(record.negatives) for record in out} == {20}


def test_records_that_have_enough_stay_as_they_are(records):
    full = TrainingRecord("질문", ("정답",), ("가", "나", "다", "라"), negative_scores=(1.0, 2.0, 3.0, 4.0))
    assert mined([full, *records])[0] == full


def test_the_first_ranks_can_be_passed_over(records):
    top = {record.query: record.negatives for record in mined(records, negatives=2, rank_to=4, max_overlap=1.0)}
    later = {record.query: record.negatives for record in mined(records, negatives=2, rank_from=9, rank_to=12, max_overlap=1.0)}
    assert all(not set(top[query]) & set(later[query]) for query in top)


def test_a_passage_that_answers_under_another_record_of_the_query_is_no_negative(records):
    query = records[0].query
    answer = "한강의 길이는 494 km이다. 한강의 길이는 어떻게 재었는가."
    again = TrainingRecord(query, (answer,))
    for record in mined([*records, again], negatives=30):
        if record.query == query:
            assert answer not in record.negatives
            assert records[0].positives[0] not in record.negatives


@pytest.mark.parametrize(
    ("passage", "equal", "overlaps"),
    [
        ("서울은 대한민국의 수도이다!", True, True),
        ("서울은대한민국의 수도이다", True, True),
        ("알다시피 서울은 대한민국의 수도이다. 인구가 가장 많다.", False, True),
        ("부산은 대한민국의 항구 도시이다.", False, False),
        ("!!", False, False),
    ],
)
def test_near_duplicates_of_a_positive_are_told_apart(passage, equal, overlaps):
    right = Positives(["서울은 대한민국의 수도이다."], 0.6)
    assert (right.equal(passage), right.overlaps(passage)) == (equal, overlaps)


class Teacher:
    """Likes the positives, and whatever speaks of a height; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, query, documents):
        self.asked += len(documents)
        return np.array([4.5 if "높이" in text else 5.0 if "설명" in text else -5.0 for text in documents], dtype=np.float32)


def test_a_teacher_has_the_last_word(records):
    class Strict(Teacher):
        def score(self, query, documents):
            topic = query.split("의")[0]
            return np.array([5.0 if topic in text else 4.5 if "높이" in text else -5.0 for text in documents])

    counts: Counter[str] = Counter()
    mined(records, counts, Strict(), max_overlap=1.0)
    assert counts["refused_by_the_teacher"] > 0


def test_a_teachers_scores_of_all_passages_stand_in_the_record(records):
    full = TrainingRecord("질문", ("정답",), ("가", "나", "높이", "라"), negative_scores=(1.0, 2.0, 3.0, 4.0))
    teacher = Teacher()
    out = mined([full, *records], teacher=teacher, negatives=4)
    assert out[0].positive_scores == (-5.0,)
    assert out[0].negative_scores == (-5.0, -5.0, 4.5, -5.0), "the teacher's, not those that stood there"
    for record in out:
        assert (len(record.positive_scores), len(record.negative_scores)) == (len(record.positives), len(record.negatives))
        assert parse_record(record.to_json()) == record
    assert teacher.asked < 4.5 * len(out) * 3, "a passage is scored once"


def test_without_a_teacher_nothing_is_scored(records):
    assert {(record.positive_scores, record.negative_scores) for record in mined(records)} == {(None, None)}


def twin(text: str) -> str:
    """The same text, spelt as macOS names files, with a zero-width space."""
    return unicodedata.normalize("NFD", text) + "\u200b"


def test_a_query_spelt_otherwise_is_the_same_query(records):
    answer = "한강은 서울을 지나 서해로 흐른다. 길이는 494 km이다."
    again = TrainingRecord(twin(records[0].query), (answer,))
    for record in mined([*records, again], negatives=60):
        if record in (records[0], again) or record.query in (records[0].query, again.query):
            assert not {answer, records[0].positives[0]} & set(record.negatives)


def test_the_query_itself_becomes_no_negative(records):
    query = records[0].query
    other = TrainingRecord("다른 질문입니까?", (twin(query),))
    counts: Counter[str] = Counter()
    out = mined([*records, other], counts, negatives=60)
    assert all(identity(query) not in map(identity, record.negatives) for record in out if record.query == query)
    assert counts["equal_to_the_query"] > 0


def test_negatives_that_are_right_or_the_query_are_dropped_and_counted(records):
    wrong = TrainingRecord(
        "질문",
        ("정답입니다",),
        (twin("정답입니다"), "오답", "\ufeff질문", "다른 오답"),
        negative_scores=(1.0, 2.0, 3.0, 4.0),
    )
    counts: Counter[str] = Counter()
    out = mined([wrong, *records], counts, negatives=2)[0]
    assert (out.negatives, out.negative_scores) == (("오답", "다른 오답"), (2.0, 4.0))
    assert counts["dropped_negatives"] == 2


def test_a_passage_spelt_in_two_ways_is_one_passage(records):
    doubled = [*records, *(TrainingRecord(f"{n} 번째", (twin(record.positives[0]),)) for n, record in enumerate(records))]
    counts: Counter[str] = Counter()
    for record in mined(doubled, counts, negatives=30):
        assert len(set(map(identity, record.negatives))) == len(record.negatives)
    assert counts["passages"] == len(records)
