"""First-stage and relevance scores together rank one query's documents, whatever their scales."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_reranker.fusion import fuse

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


def test_both_scores_count_in_their_standard_deviations() -> None:
    # Means 2 and 0; deviations sqrt(2/3) and sqrt(200/3): each of both columns is (-1, 0, 1) * sqrt(3/2).
    assert fuse([1, 2, 3], [10, 0, -10]) == pytest.approx([0, 0, 0])
    assert fuse([1, 2, 3], [-10, 0, 10]) == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])


@pytest.mark.parametrize(("weight", "first"), [(1.0, 0), (0.9, 0), (0.1, 1), (0.0, 1)])
def test_the_weight_is_the_first_stages(weight: float, first: int) -> None:
    fused = fuse([5, 1], [-2, 2], weight=weight)
    assert fused.index(max(fused)) == first


def test_scores_that_are_all_alike_decide_nothing() -> None:
    assert fuse([7, 7, 7], [1, 3, 2]) == fuse([0, 0, 0], [1, 3, 2])
    assert fuse([], []) == []
    assert fuse([3], [4]) == [0]


@given(SCORES, st.data())
def test_scale_and_offset_of_either_side_do_not_matter(first: list[float], data: st.DataObject) -> None:
    relevance = data.draw(st.lists(st.floats(-50, 50), min_size=len(first), max_size=len(first)))
    fused = fuse(first, relevance)
    assert all(map(math.isfinite, fused))
    assert fuse([4 * value for value in first], relevance) == pytest.approx(fused, abs=1e-6)


@pytest.mark.parametrize(("first", "relevance", "weight"), [([1], [1, 2], 0.5), ([1], [1], 1.5), ([1], [1], math.nan)])
def test_what_does_not_fit_is_refused(first: list[float], relevance: list[float], weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight|give one each"):
        fuse(first, relevance, weight=weight)
