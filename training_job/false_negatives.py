"""What looks like a hard negative and is the answer: passages to keep out of a record's negatives."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ko_reranker.text import identity

_GRAM = 4


class Positives:
    """A query's right passages, to hold candidates against.

    Args:
        passages: all of them, from all the query's records.
        max_overlap: the share of the shorter text's character 4-grams from which on two texts count as one.
    """

    def __init__(self, passages: Iterable[str], max_overlap: float) -> None:
        self._texts = {bare(passage) for passage in passages}
        self._grams = [grams(text) for text in self._texts]
        self._max_overlap = max_overlap

    def equal(self, passage: str) -> bool:
        """Tell whether a passage is a positive but for case, white space and punctuation."""
        return bare(passage) in self._texts

    def overlaps(self, passage: str) -> bool:
        """Tell whether a passage is nearly a positive, holds one, or is part of one."""
        own = grams(bare(passage))
        return any(len(own & other) >= self._max_overlap * min(len(own), len(other)) for other in self._grams if own and other)


def bare(text: str) -> str:
    """Return a text's letters and digits, in one case and one spelling (NFKC); of a text without any, what there is."""
    same = identity(text)
    return "".join(char for char in unicodedata.normalize("NFKC", same).casefold() if char.isalnum()) or same


def grams(text: str) -> frozenset[str]:
    """Return a bare text's character 4-grams; a shorter text is its own."""
    if len(text) < _GRAM:
        return frozenset({text} if text else ())
    return frozenset(text[start : start + _GRAM] for start in range(len(text) - _GRAM + 1))
