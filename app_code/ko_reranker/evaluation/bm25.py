"""BM25 over Korean morphemes: the ranking without a reranker, and the bar that a model must clear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Sejong tags of what carries meaning: nouns, verbs and adjectives, modifiers, roots, foreign words, numerals.
# Particles and endings, which make every Korean word look different, are left out.
_CONTENT = ("NN", "NR", "NP", "VV", "VA", "MM", "MAG", "XR", "SL", "SH", "SN")


class MorphemeBm25:
    """BM25 (Lucene's variant) over the content morphemes of a corpus.

    Args:
        corpus: the passages, whose statistics weigh the morphemes.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        import bm25s
        from kiwipiepy import Kiwi

        self._kiwi = Kiwi(num_workers=1)
        self._places = {passage: index for index, passage in enumerate(corpus)}
        tokens = self._morphemes(list(self._places))
        self._index = bm25s.BM25(method="lucene")
        # A morpheme that no text holds keeps an index of nothing from failing.
        self._index.index([words or ["∅"] for words in tokens], show_progress=False)

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 scores, (documents,), of documents of the corpus."""
        known = [word for word in self._morphemes([query])[0] if word in self._index.vocab_dict]
        if not known:
            return np.zeros(len(documents), dtype=np.float32)
        scores = self._index.get_scores(known)
        return scores[[self._places[document] for document in documents]].astype(np.float32)

    def _morphemes(self, texts: list[str]) -> list[list[str]]:
        return [
            [f"{token.form.lower()}/{token.tag[:2]}" for token in tokens if token.tag.startswith(_CONTENT)]
            for tokens in self._kiwi.tokenize(texts)
        ]
