"""The fixed candidates: what every row of a comparison has to rank."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ko_reranker.evaluation.bm25 import Bm25
from ko_reranker.evaluation.questions import Question, TestSet, TestSetError

FirstStage = Literal["morphemes", "morphemes+bigrams", "given"]


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """One query and the documents to rank for it.

    Attributes:
        query: the question.
        documents: the candidates, in an order that gives nothing away.
        relevance: (documents,); 0 is wrong, more is right.
        missed: the relevance of right passages that are not among the documents; every ranker is charged with them alike.
        first_stage: float64, (documents,); the scores by which the first stage ranks them.
        source: where the question comes from.
    """

    query: str
    documents: tuple[str, ...]
    relevance: tuple[float, ...]
    missed: tuple[float, ...]
    first_stage: np.ndarray
    source: str

    @property
    def positives(self) -> frozenset[int]:
        """The indexes of the right ones among the documents."""
        return frozenset(index for index, grade in enumerate(self.relevance) if grade)


def candidate_sets(
    test_set: TestSet, first_stage: FirstStage, count: int, seed: int, *, workers: int = 1
) -> list[CandidateSet]:
    """Return each question's candidates: what the first stage finds among the passages of the test set.

    The same test set, first stage, count and seed give the same candidates, so that models are compared on equal terms.
    Questions whose candidates came ranked keep them, the best ``count``.

    Args:
        test_set: questions and passages.
        first_stage: the terms of the BM25 that searches; ``given`` takes each record's own positives and negatives instead,
            which BM25 over morphemes and bigrams ranks.
        count: the most candidates a query has; with ``given`` all of a record's own.
        seed: of the documents' order.
        workers: threads of the first stage.
    """
    searched = [question for question in test_set.questions if question.candidate_scores is None]
    found: Iterator[tuple[tuple[str, ...], np.ndarray]] = iter(())
    if searched:
        terms = "morphemes+bigrams" if first_stage == "given" else first_stage
        bm25 = Bm25(test_set.passages, language=test_set.language, terms=terms, workers=workers)
        found = _own(bm25, searched) if first_stage == "given" else _found(bm25, searched, count)
    return [
        _shuffled(question, *(next(found) if question.candidate_scores is None else _ranked(question, count)), seed)
        for question in test_set.questions
    ]


def _found(bm25: Bm25, questions: Sequence[Question], count: int) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    more = any(question.own for question in questions)  # one more, where the first may be the query itself
    found = bm25.search([question.query for question in questions], count + more)
    for question, (indexes, scores) in zip(questions, found, strict=True):
        kept = [
            rank
            for rank, index in enumerate(indexes)
            if bm25.passages[index] != question.own or question.own in question.relevance
        ]
        yield tuple(bm25.passages[indexes[rank]] for rank in kept[:count]), scores[kept[:count]]


def _own(bm25: Bm25, questions: Sequence[Question]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    for question in questions:
        if not question.candidates:
            raise TestSetError(f"the first stage is given, but {question.source} gives no candidates: name a BM25 instead")
        yield question.candidates, bm25.score(question.query, question.candidates)


def _ranked(question: Question, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    documents, scores = question.candidates or (), np.array(question.candidate_scores)
    best = np.argsort(-scores, kind="stable")[:count]
    return tuple(documents[index] for index in best), scores[best]


def _shuffled(question: Question, documents: tuple[str, ...], scores: np.ndarray, seed: int) -> CandidateSet:
    order = list(range(len(documents)))
    # Ties are ranked in this order: a shuffle gives a model that ties everything what chance gives.
    random.Random(f"{seed}\n{question.query}").shuffle(order)  # noqa: S311  a seeded order, no secret
    return CandidateSet(
        query=question.query,
        documents=tuple(documents[index] for index in order),
        relevance=tuple(question.relevance.get(documents[index], 0) for index in order),
        missed=tuple(grade for passage, grade in question.relevance.items() if passage not in set(documents)),
        first_stage=np.asarray(scores, dtype=np.float64)[order],
        source=question.source,
    )
