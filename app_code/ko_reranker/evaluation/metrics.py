"""Ranking metrics of queries, by trec_eval, and intervals over them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias, TypeVar

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2_000
_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB

# Our names of trec_eval's measures. has_right@k is the published ko-reranker's "has-right-in-contexts": 1 if any right document
# is among the first k.
_MEASURES = {
    "mrr": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
    **{f"has_right@{k}": f"success_{k}" for k in (1, 2, 3, 5, 10)},
    **{f"recall@{k}": f"recall_{k}" for k in (5, 10, 20)},
}
# Steps of a grade of 1 that are told apart where grades are fractions.
_FRACTIONS = 10_000
Key = TypeVar("Key", bound=Hashable)
# One a document, (documents,).
Numbers: TypeAlias = Sequence[float] | np.ndarray

METRICS = ("mrr", "mrr@10", *list(_MEASURES)[1:])
_ASKED = {"recip_rank", "ndcg_cut.10", "success.1,2,3,5,10", "recall.5,10,20"}


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def to_json(self) -> dict[str, float]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def ranking_metrics(
    scores: Sequence[Numbers], relevance: Sequence[Numbers], missed: Sequence[Numbers]
) -> dict[str, np.ndarray]:
    """Return each metric of each query, float64 (queries,).

    Args:
        scores: per query one per document, the higher the better; ties keep the documents' order.
        relevance: per query one per document, from 0.
        missed: per query the relevance of right documents that were not there to be ranked.

    Raises:
        ValueError: when a score is not a number.
    """
    import pytrec_eval

    run: dict[str, dict[str, float]] = {}
    judged: dict[str, dict[str, int]] = {}
    for number, (values, grades, absent) in enumerate(zip(scores, relevance, missed, strict=True)):
        order = np.argsort(-_finite(values), kind="stable")
        # trec_eval breaks ties by name: ranks have none.
        run[str(number)] = {str(index): float(-rank) for rank, index in enumerate(order.tolist())}
        judged[str(number)] = _whole(
            {str(index): grade for index, grade in enumerate(grades)}
            | {f"missed {index}": grade for index, grade in enumerate(absent)}
        )
        if not len(values):
            run[str(number)] = {"nothing": 0.0}
    found = pytrec_eval.RelevanceEvaluator(judged, _ASKED).evaluate(run)
    per_query = [found[str(number)] for number in range(len(run))]
    metrics = {name: np.array([query[measure] for query in per_query]) for name, measure in _MEASURES.items()}
    metrics["mrr@10"] = metrics["mrr"] * metrics["has_right@10"]
    return {name: metrics[name] for name in METRICS}


def _whole(grades: Mapping[str, float]) -> dict[str, int]:
    """Return grades as trec_eval takes them: whole. Fractions are all multiplied, which no measure sees, nDCG being a ratio."""
    factor = 1 if all(float(grade).is_integer() for grade in grades.values()) else _FRACTIONS
    return {name: max(1, round(grade * factor)) if grade > 0 else 0 for name, grade in grades.items()}


def _finite(values: Numbers) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError("a score is not a number")
    return array


def bootstrap_intervals(values: Mapping[Key, np.ndarray], seed: int) -> dict[Key, Interval]:
    """Return by key the mean over queries with its percentile bootstrap interval, all from the same resamples.

    Given the differences of two rankers, query by query, they are the paired intervals of their difference.

    Args:
        values: by key, (queries,).
        seed: of the resampling.
    """
    table = np.array(list(values.values()), dtype=np.float64)  # (keys, queries)
    queries = table.shape[1]
    # A resample of a mean is the weights with which each query is drawn: one product for all keys.
    draw = np.random.default_rng(seed)
    resamples = np.empty((RESAMPLES, len(table)))
    at_once = max(1, _WEIGHTS_AT_ONCE // queries)
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        weights = draw.multinomial(queries, np.full(queries, 1 / queries), size=count)  # (count, queries)
        resamples[start : start + count] = weights @ table.T / queries
    tail = (1 - CONFIDENCE) / 2
    lows, highs = np.quantile(resamples, [tail, 1 - tail], axis=0)
    return {
        key: Interval(float(mean), float(low), float(high))
        for key, mean, low, high in zip(values, table.mean(axis=1), lows, highs, strict=True)
    }
