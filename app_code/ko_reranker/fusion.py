"""First stage and reranker together: where a small model errs, the words of the query often do not."""

from __future__ import annotations

import math
from collections.abc import Collection


def fuse(first_stage_scores: Collection[float], relevance_scores: Collection[float], *, weight: float = 0.5) -> list[float]:
    """Return one score per document: the weighted sum of both scores, each in standard deviations from its mean.

    BM25 scores and logits have different scales, which differ from query to query, too; what they are scaled by here are the
    candidates of the one query, so that the result ranks these and says nothing across queries.

    Args:
        first_stage_scores: BM25's or the retriever's, (documents,), the higher the better.
        relevance_scores: the reranker's, (documents,), logits (``raw_scores``) rather than scores from 0 to 1: those crowd at
            the ends.
        weight: of the first stage, 0 to 1.

    Raises:
        ValueError: when the lengths differ or the weight is not from 0 to 1.
    """
    if len(first_stage_scores) != len(relevance_scores):
        raise ValueError(
            f"{len(first_stage_scores)} first-stage scores and {len(relevance_scores)} relevance scores: give one each"
        )
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be from 0 to 1, is {weight}")
    first, relevance = _standardised(first_stage_scores), _standardised(relevance_scores)
    return [weight * one + (1 - weight) * other for one, other in zip(first, relevance, strict=True)]


def _standardised(values: Collection[float]) -> list[float]:
    if not len(values):
        return []
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    # Scores that are all alike say nothing.
    return [(float(value) - mean) / deviation if deviation else 0.0 for value in values]
