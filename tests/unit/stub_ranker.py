"""A ranker without a model: the engine is the real one, what it computes is up to the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ko_reranker.engine import Engine
from ko_reranker.rankers import Scored
from ko_reranker.rankers.pairs import EncodedDocuments


@dataclass(frozen=True)
class Pair:
    """A query and a document; a character is a token."""

    query: str
    document: str
    tokens: int

    def __len__(self) -> int:
        return self.tokens


class StubRanker:
    """Reads up to ``max_length`` characters of a document, query not counted; never in pieces.

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
        self.engine = Engine(self._forward, batch_tokens=1_000, max_queue_tokens=max_queue_tokens)

    def logit(self, query: str, document: str) -> float:
        """Return what the model says of a pair: here the number of the query's characters that the document has, too."""
        return len(set(query) & set(document))

    def prepare(self, query: str, documents: Sequence[str], **limits: int | None) -> EncodedDocuments:
        self.calls.append(list(documents))
        lengths = np.array([len(document) for document in documents], dtype=np.int32)
        pairs = [Pair(query, document, min(len(document), self.max_length)) for document in documents]
        return EncodedDocuments(pairs, np.ones_like(lengths), lengths > self.max_length, len(query) > self.max_length)

    def finish(self, encoded: EncodedDocuments, logits: np.ndarray) -> Scored:
        tokens = np.array([len(pair) for pair in encoded.pairs], dtype=np.int32)
        return Scored(logits, tokens, encoded.truncated, encoded.query_truncated, encoded.chunks)

    def close(self) -> None:
        self.engine.close()

    def _forward(self, pairs: Sequence[Pair]) -> tuple[np.ndarray, int]:
        logits = np.array([self.logit(pair.query, pair.document) for pair in pairs], dtype=np.float32)
        return logits, sum(map(len, pairs))
