"""BM25 over what a language's analyser finds: the ranking without a reranker, and the bar that a model must clear."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal
from unicodedata import normalize

import numpy as np

from ko_reranker.languages import KOREAN, Language

Terms = Literal["morphemes", "morphemes+bigrams"]

_WORD = re.compile(r"\w+")
_TEXTS_AT_ONCE = 1_000


class Bm25:
    """BM25 (Lucene's variant) over the terms of a corpus.

    Args:
        corpus: the passages, whose statistics weigh the terms; equal ones are one.
        language: of the passages, whose analyser finds their terms.
        terms: the content morphemes of a text, or these and beside them the pairs of neighbouring characters of each word.
            Pairs match names that the analyser cuts in two different ways, and more of the right passages are found; on TyDi-ko
            MRR is .67 with them and .63 without (docs/evaluation.md).
        workers: threads; more of them change no score.

    Attributes:
        passages: the distinct passages, in the order of the corpus.
    """

    def __init__(
        self, corpus: Sequence[str], *, language: Language = KOREAN, terms: Terms = "morphemes+bigrams", workers: int = 1
    ) -> None:
        import bm25s

        self._analyse = language.analyser(workers)
        self.terms = terms
        self._workers = workers
        self._index_of = {passage: index for index, passage in enumerate(dict.fromkeys(corpus))}
        self.passages = list(self._index_of)
        self._index = bm25s.BM25(method="lucene")
        # A term that no text holds keeps an index of nothing from failing.
        self._index.index([found or ["∅"] for found in self._terms(self.passages)], show_progress=False)

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 scores, (documents,), of documents of the corpus."""
        scores = self._scores(self._terms([query])[0])
        return scores[[self._index_of[document] for document in documents]].astype(np.float32)

    def search(self, queries: Sequence[str], count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each query the indexes in `passages` of its best ones and their scores, both (≤ count,), best first.

        Passages that share no term with the query are left out; of equal ones the first in the corpus is the better.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, len(queries), _TEXTS_AT_ONCE):
                terms = self._terms(queries[start : start + _TEXTS_AT_ONCE])
                yield from pool.map(lambda found: _best(self._scores(found), count), terms)

    def best(self, queries: Sequence[str], count: int) -> Iterator[np.ndarray]:
        """Yield the indexes alone; see `search`."""
        return (indexes for indexes, _ in self.search(queries, count))

    def _scores(self, terms: list[str]) -> np.ndarray:
        known = [term for term in terms if term in self._index.vocab_dict]
        return self._index.get_scores(known) if known else np.zeros(len(self.passages), dtype=np.float32)

    def _terms(self, texts: Sequence[str]) -> list[list[str]]:
        # Text from a Mac may spell syllables as their letters one by one.
        texts = [normalize("NFC", text) for text in texts]
        found = self._analyse(texts)
        if self.terms == "morphemes":
            return found
        return [morphemes + _bigrams(text) for morphemes, text in zip(found, texts, strict=True)]


def _bigrams(text: str) -> list[str]:
    """The pairs of neighbouring characters of each word; a morpheme has a tag, so that none is taken for a pair."""
    pairs: list[str] = []
    for word in _WORD.findall(text.lower()):
        pairs += [word[index : index + 2] for index in range(max(1, len(word) - 1))]
    return pairs


def _best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    indexes = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
    indexes = indexes[scores[indexes] > 0]
    indexes = indexes[np.lexsort((indexes, -scores[indexes]))]
    return indexes, scores[indexes]
