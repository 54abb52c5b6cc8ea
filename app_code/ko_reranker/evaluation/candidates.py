"""The fixed candidates: what every row of a comparison has to rank."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ko_reranker.data.negatives import fill_negatives
from ko_reranker.data.records import TrainingRecord


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """One query and the documents to rank for it.

    Attributes:
        query: the question.
        documents: the candidates, in an order that gives nothing away.
        positives: the places of the right ones among the documents, at least one.
    """

    query: str
    documents: tuple[str, ...]
    positives: frozenset[int]


def candidate_sets(records: Sequence[TrainingRecord], count: int, seed: int) -> list[CandidateSet]:
    """Return each record's candidates: its positives, its negatives, then random passages of the other records.

    The same records, count and seed give the same candidates, so that models are compared on equal terms. A record has
    fewer than ``count`` where the passages run out, and more only where its own positives are more.

    Args:
        records: the dev records.
        count: candidates per query.
        seed: of the random passages and of the order.
    """
    passages = sorted({passage for record in records for passage in (*record.positives, *record.negatives)})
    return [_candidates(record, passages, count, seed) for record in records]


def _candidates(record: TrainingRecord, passages: Sequence[str], count: int, seed: int) -> CandidateSet:
    positives = tuple(dict.fromkeys(record.positives))
    room = max(0, count - len(positives))
    # A passage given as both is right: a duplicate must not compete with itself.
    own = tuple(passage for passage in dict.fromkeys(record.negatives) if passage not in positives)[:room]
    filled = fill_negatives(record.with_negatives(own), passages, room, seed)
    documents = [*positives, *filled.negatives]
    # Ties are ranked in this order: a shuffle gives a model that ties everything what chance gives.
    random.Random(f"{seed}\n{record.query}").shuffle(documents)  # noqa: S311  a seeded order, no secret
    right = frozenset(index for index, document in enumerate(documents) if document in positives)
    return CandidateSet(record.query, tuple(documents), right)
