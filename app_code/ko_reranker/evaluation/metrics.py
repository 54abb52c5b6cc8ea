"""Ranking metrics of one query, and intervals over many."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2_000


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def to_json(self) -> dict[str, float]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def query_metrics(scores: Sequence[float], positives: Collection[int]) -> dict[str, float]:
    """Return the metrics of one ranked query.

    ``has_right@k`` is the published ko-reranker's "has-right-in-contexts": 1 if any right document is among the first k.

    Args:
        scores: one per document, the higher the better; ties keep the documents' order.
        positives: the places of the right documents.
    """
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a score is not a number")
    order = np.argsort(-values, kind="stable")
    ranks = np.flatnonzero(np.isin(order, list(positives))) + 1  # of the right documents, ascending, from 1
    first = int(ranks[0])
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(ranks), 10) + 1))
    return {
        "mrr": 1 / first,
        "mrr@10": 1 / first if first <= 10 else 0.0,
        "ndcg@10": gain / ideal,
        "has_right@1": float(first <= 1),
        "has_right@3": float(first <= 3),
        "has_right@5": float(first <= 5),
        "recall@10": float((ranks <= 10).mean()),
    }


def bootstrap_interval(values: Sequence[float], seed: int) -> Interval:
    """Return the mean over queries with its percentile bootstrap interval.

    Given the differences of two rankers, query by query, it is the paired interval of their difference.

    Args:
        values: one per query.
        seed: of the resampling.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < 2 or np.ptp(sample) == 0:
        return Interval(mean, mean, mean)  # nothing varies: there is nothing to resample
    result = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // len(sample)),  # some 32 MB at a time, however many queries there are
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))
