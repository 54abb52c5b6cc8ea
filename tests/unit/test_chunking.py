"""A long document is read whole, in chunks that overlap, unless a limit says how much of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_reranker.text.chunking import spans

LENGTHS = st.integers(0, 5_000)
WINDOWS = st.integers(1, 600)
OVERLAPS = st.integers(0, 700)
LIMITS = st.none() | st.integers(1, 40)


def test_a_document_that_fits_is_one_piece():
    assert spans(0, 10, 2) == [(0, 0)]
    assert spans(10, 10, 2) == [(0, 10)]


def test_the_last_piece_ends_where_the_document_ends():
    assert spans(11, 10, 2) == [(0, 10), (1, 11)]
    assert spans(25, 10, 2) == [(0, 10), (8, 18), (15, 25)]
    assert spans(26, 10, 2) == [(0, 10), (8, 18), (16, 26)]


def test_a_limit_of_pieces_keeps_the_first_and_leaves_the_end_unread():
    assert spans(100, 10, 2, 2) == [(0, 10), (8, 18)]
    assert spans(100, 10, 2, 1) == [(0, 10)]


def test_a_limit_of_tokens_is_the_documents_end():
    assert spans(100, 10, 2, max_tokens=11) == [(0, 10), (1, 11)]
    assert spans(100, 10, 2, max_tokens=4) == [(0, 4)]
    assert spans(100, 10, 2, 1, max_tokens=11) == [(0, 10)]


@pytest.mark.parametrize("wrong", [{"window": 0}, {"max_chunks": 0}, {"max_tokens": 0}, {"overlap": -1}, {"length": -1}])
def test_a_limit_that_leaves_nothing_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        spans(**{"length": 5, "window": 3} | wrong)


@given(LENGTHS, WINDOWS, OVERLAPS)
def test_without_limits_every_token_is_read_and_every_piece_is_full(length, window, overlap):
    chunks = spans(length, window, overlap)
    assert {token for start, end in chunks for token in range(start, end)} == set(range(length))
    assert all(end - start == min(window, length) for start, end in chunks)
    assert chunks == sorted(set(chunks))


@given(LENGTHS, WINDOWS, OVERLAPS)
def test_neighbours_share_the_overlap_asked_for_and_no_needless_piece_is_read(length, window, overlap):
    chunks = spans(length, window, overlap)
    shared = min(overlap, window // 2)
    reach = [left[1] - right[0] for left, right in pairwise(chunks)]
    assert all(count == shared for count in reach[:-1])
    assert all(count >= shared for count in reach)
    if len(chunks) > 1:
        assert chunks[-2][1] < length


@given(LENGTHS, WINDOWS, OVERLAPS, LIMITS, st.none() | st.integers(1, 6_000))
def test_limits_hold_and_take_from_the_end_only(length, window, overlap, max_chunks, max_tokens):
    chunks = spans(length, window, overlap, max_chunks, max_tokens=max_tokens)
    assert 1 <= len(chunks) <= (max_chunks or len(chunks))
    assert chunks[-1][1] <= min(length, max_tokens or length)
    if max_tokens is None:
        free = spans(length, window, overlap)
        # All but the last are the very same chunks; the last one of the free ones may have been moved back.
        assert chunks[:-1] == free[: len(chunks) - 1]
