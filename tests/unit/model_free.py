"""Rankers without a model for tests of the server: the engine and its threads are the real ones, only the arithmetic is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ko_reranker.engine import Engine
from ko_reranker.rankers import Scored


class Question:
    """The documents of one query, submitted to the engine as one sequence."""

    def __init__(self, query: str, documents: Sequence[str], limits: dict) -> None:
        self.query, self.documents, self.limits = query, documents, limits
        self.scored: Scored | None = None
        self.pairs = [self]

    def __len__(self) -> int:
        return 1 + sum(map(len, self.documents))


class ModelFreeRanker:
    """Base of the stand-ins: they say in ``score_detailed`` what a model would."""

    max_length = 20
    model_id = "model-free"
    max_queue_tokens: int | None = None

    def __init__(self) -> None:
        self.engine = Engine(self._forward, batch_tokens=1, max_queue_tokens=self.max_queue_tokens)

    def score_detailed(self, query: str, documents: Sequence[str], **limits: int | None) -> Scored:
        raise NotImplementedError

    def prepare(self, query: str, documents: Sequence[str], **limits: int | None) -> Question:
        return Question(query, documents, limits)

    def finish(self, question: Question, logits: np.ndarray) -> Scored:
        return question.scored

    def close(self) -> None:
        self.engine.close()

    def _forward(self, questions: Sequence[Question]) -> tuple[np.ndarray, int]:
        for question in questions:
            question.scored = self.score_detailed(question.query, question.documents, **question.limits)
        return np.zeros(len(questions), np.float32), sum(map(len, questions))
