"""A ranker without a model: the engine is the real one, what it computes is up to the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ko_reranker.engine import Engine
from ko_reranker.rankers import Cost, Ranker, Scored
from ko_reranker.rankers.interface import Rounds


@dataclass(frozen=True)
class Pair:
    """A query and a document; a character is a token."""

    query: str
    document: str
    tokens: int

    def __len__(self) -> int:
        return self.tokens


class StubRanker(Ranker):
    """Reads up to ``max_length`` characters of a document, query not counted; never in chunks.

    Args:
        max_queue_tokens: the engine's.

    Attributes:
        calls: the documents of each call to tokenise.
    """

    max_length = 20
    model_id = "stub"
    precision = "none"

    def __init__(self, max_queue_tokens: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self.engine = Engine(self.forward, batch_tokens=1_000, max_queue_tokens=max_queue_tokens)

    def logit(self, query: str, document: str) -> float:
        """Return what the model says of a pair: here the number of the query's characters that the document has, too."""
        return len(set(query) & set(document))

    def rounds(self, query: str, documents: Sequence[str], **options: int | str | None) -> Rounds:
        self.calls.append(list(documents))
        pairs = [Pair(query, document, min(len(document), self.max_length)) for document in documents]
        logits = yield pairs
        lengths = np.array([len(document) for document in documents], dtype=np.int32)
        tokens = np.array([len(pair) for pair in pairs], dtype=np.int32)
        cut = lengths > self.max_length, len(query) > self.max_length
        return Scored(np.array(logits, np.float32), tokens, *cut, np.ones_like(lengths), Cost.of(pairs))

    def forward(self, pairs: Sequence[Pair]) -> tuple[np.ndarray, int]:
        logits = np.array([self.logit(pair.query, pair.document) for pair in pairs], dtype=np.float32)
        return logits, sum(map(len, pairs))
