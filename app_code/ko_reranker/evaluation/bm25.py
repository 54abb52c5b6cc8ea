"""BM25 over Korean morphemes: the ranking without a reranker, and the bar that a model must clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

# Sejong tags of what carries meaning: nouns, verbs and adjectives, modifiers, roots, foreign words, numerals.
# Particles and endings, which make every Korean word look different, are left out.
_CONTENT = ("NN", "NR", "NP", "VV", "VA", "MM", "MAG", "XR", "SL", "SH", "SN")
_QUERIES_AT_ONCE = 1_000


class MorphemeBm25:
    """BM25 (Lucene's variant) over the content morphemes of a corpus.

    Args:
        corpus: the passages, whose statistics weigh the morphemes.
        workers: threads; more of them change no score.
    """

    def __init__(self, corpus: Sequence[str], *, workers: int = 1) -> None:
        import bm25s

        self._kiwi = _kiwi(workers)
        self._workers = workers
        self._places = {passage: index for index, passage in enumerate(corpus)}
        tokens = self._morphemes(list(self._places))
        self._index = bm25s.BM25(method="lucene")
        # A morpheme that no text holds keeps an index of nothing from failing.
        self._index.index([words or ["∅"] for words in tokens], show_progress=False)

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 scores, (documents,), of documents of the corpus."""
        scores = self._scores(self._morphemes([query])[0])
        return scores[[self._places[document] for document in documents]].astype(np.float32)

    def best(self, queries: Sequence[str], count: int) -> Iterator[np.ndarray]:
        """Yield for each query the places in the corpus of its best passages, (≤ count,), best first.

        Passages that share no morpheme with the query are left out; of equal ones the first in the corpus is the better.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                words = self._morphemes(list(queries[start : start + _QUERIES_AT_ONCE]))
                yield from pool.map(lambda known: _best(self._scores(known), count), words)

    def _scores(self, words: list[str]) -> np.ndarray:
        known = [word for word in words if word in self._index.vocab_dict]
        return self._index.get_scores(known) if known else np.zeros(len(self._places), dtype=np.float32)

    def _morphemes(self, texts: list[str]) -> list[list[str]]:
        return [
            [f"{token.form.lower()}/{token.tag[:2]}" for token in tokens if token.tag.startswith(_CONTENT)]
            for tokens in self._kiwi.tokenize(texts)
        ]


@cache
def _kiwi(workers: int) -> Any:
    """The analyser: its models take seconds to load, and serve every corpus."""
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=workers)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    places = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
    places = places[scores[places] > 0]
    return places[np.lexsort((places, -scores[places]))]
