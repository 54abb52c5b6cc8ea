"""Sorts by comparing: the right order, no more questions than each promises, and those that are independent asked together."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.rankers.sorting import Group, all_pairs, answered, best_by_pairs, heap_sort, sliding_sort, windows

MANY = settings(max_examples=60, deadline=None)
VALUES = st.lists(st.integers(0, 50), max_size=40)


@dataclass
class Judge:
    """Knows what each document is worth, and counts what it is asked."""

    values: list[int]
    rounds: list[list[Group]] = field(default_factory=list)

    @property
    def questions(self) -> int:
        return sum(map(len, self.rounds))

    def see_through(self, sort: Any, answer: Callable[[Group], Any]) -> list[int]:
        try:
            groups = next(sort)
            while True:
                assert groups and all(len(set(group)) == len(group) > 1 for group in groups), "no question is empty"
                self.rounds.append(list(groups))
                groups = sort.send([answer(group) for group in groups])
        except StopIteration as end:
            return end.value

    def share(self, pair: Group) -> float:
        one, other = (self.values[document] for document in pair)
        return 0.5 if one == other else float(one > other)

    def best(self, group: Group) -> int:
        return max(range(len(group)), key=lambda place: self.values[group[place]])

    def order(self, group: Group) -> list[int]:
        return sorted(range(len(group)), key=lambda place: -self.values[group[place]])

    def check(self, order: list[int], top: int | None = None) -> None:
        """See that all documents are there once, and that none behind the first ``top`` is better than those."""
        assert sorted(order) == list(range(len(self.values)))
        found = [self.values[document] for document in order]
        assert found[:top] == sorted(self.values, reverse=True)[:top]


def depth(count: int, children: int) -> int:
    """Return how many levels of a heap are below its root."""
    levels, start, width = 0, 1, children
    while start < count:
        levels, start, width = levels + 1, start + width, width * children
    return levels


@MANY
@given(values=VALUES)
def test_all_pairs_are_asked_once_and_in_one_round(values):
    judge = Judge(values)
    judge.check(judge.see_through(all_pairs(len(values)), judge.share))
    assert judge.questions == len(values) * (len(values) - 1) // 2
    assert len(judge.rounds) == (len(values) > 1)
    asked = list(itertools.chain.from_iterable(judge.rounds))
    assert len({frozenset(pair) for pair in asked}) == len(asked)


def test_ties_keep_the_order_that_documents_came_in():
    for sort in (all_pairs(6), answered(heap_sort(6, 2, 3), best_by_pairs)):
        judge = Judge([1, 1, 1, 1, 1, 1])
        order = judge.see_through(sort, judge.share)
        assert order[0] == 0
    assert judge.see_through(all_pairs(6), judge.share) == [0, 1, 2, 3, 4, 5]


def test_a_circle_of_wins_is_no_obstacle():
    beats = {(0, 1), (1, 2), (2, 0)}
    for sort in (all_pairs(3), answered(heap_sort(3, 2), best_by_pairs)):
        order = Judge([0, 0, 0]).see_through(sort, lambda pair: float(pair in beats))
        assert sorted(order) == [0, 1, 2]


@MANY
@given(values=VALUES, children=st.integers(2, 9), top=st.none() | st.integers(1, 50))
def test_a_heap_finds_the_best_within_its_bound(values, children, top):
    judge = Judge(values)
    judge.check(judge.see_through(heap_sort(len(values), children, top), judge.best), top)
    count, levels = len(values), depth(len(values), children)
    wanted = count if top is None else min(top, count)
    built = (count - 1) / (children - 1) + levels
    assert judge.questions <= max(0, built + (wanted - 1) * levels)
    assert all(len(group) <= children + 1 for groups in judge.rounds for group in groups)


@MANY
@given(values=VALUES, top=st.none() | st.integers(1, 50))
def test_a_heap_of_pairs_finds_the_best_within_its_bound(values, top):
    judge = Judge(values)
    sort = answered(heap_sort(len(values), 2, top), best_by_pairs)
    judge.check(judge.see_through(sort, judge.share), top)
    count = len(values)
    wanted = count if top is None else min(top, count)
    assert judge.questions <= max(0, 2 * (count - 1) + (wanted - 1) * math.log2(max(count, 1)))


@pytest.mark.parametrize("children", [2, 3, 9])
def test_a_level_of_a_heap_is_one_round(children):
    count = 1 + children + children**2 + children**3 if children < 9 else 91
    judge = Judge(list(range(count, 0, -1)))  # in order already: nothing sinks
    judge.see_through(heap_sort(count, children, 1), judge.best)
    inner = (count - 1) // children
    assert judge.questions == inner, "each document with children once"
    assert [len(groups) for groups in judge.rounds] == [children**level for level in reversed(range(depth(count, children)))]


def test_documents_that_sink_below_others_at_the_same_time_are_one_round():
    judge = Judge(list(range(15)))  # the wrong way round: all sink to the bottom
    judge.see_through(heap_sort(15, 2, 1), judge.best)
    assert [len(groups) for groups in judge.rounds] == [4, 2, 2, 1, 1, 1]


@MANY
@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=30), size=st.integers(1, 6))
def test_the_best_of_groups_takes_a_pair_less_than_there_are_documents(values, size):
    groups = [tuple(range(start, min(start + size, len(values)))) for start in range(0, len(values), size)]
    judge = Judge(values)
    assert judge.see_through(best_by_pairs(groups), judge.share) == [judge.best(group) for group in groups]
    assert judge.questions == len(values) - len(groups)
    assert len(judge.rounds) <= math.ceil(math.log2(size)) + 1


@pytest.mark.parametrize("size, stride", [(20, 10), (4, 2), (5, 5), (10, 3), (1, 1)])
@pytest.mark.parametrize("count", range(1, 61))
def test_windows_leave_no_place_out_and_reach_the_front(count, size, stride):
    found = windows(count, size, stride)
    assert found[0][1] == count and found[-1][0] == 0
    assert {place for start, end in found for place in range(start, end)} == set(range(count))
    assert all(end - start == min(size, count) for start, end in found), "none is smaller than it could be"
    assert all(0 < earlier[0] - later[0] <= stride for earlier, later in itertools.pairwise(found))
    assert len(found) == 1 + math.ceil(max(0, count - size) / stride)


@pytest.mark.parametrize("count", range(61))
def test_sliding_windows_bring_the_best_to_the_front(count):
    values = list(range(count))
    random.Random(count).shuffle(values)
    judge = Judge(values)
    order = judge.see_through(sliding_sort(count, 20, 10), judge.order)
    judge.check(order, 10 if count > 20 else None)
    assert judge.questions == len(judge.rounds) == (len(windows(count, 20, 10)) if count > 1 else 0)
