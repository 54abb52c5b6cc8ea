"""Rankers side by side on the same candidates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ko_reranker.evaluation.candidates import CandidateSet
from ko_reranker.evaluation.metrics import bootstrap_interval, query_metrics

CANDIDATE = "candidate"
COMPARED_METRICS = ("mrr", "ndcg@10", "has_right@1")
GOLDEN_QUERIES = 5


class Scorer(Protocol):
    """What a row needs: a ranker, or BM25."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Row:
    """One ranker's results.

    Attributes:
        scores: per query, one per document.
        metrics: by name, float64 (queries,).
        latency_ms_p50: the middle time to score one query's candidates, on the machine of the evaluation.
    """

    scores: list[np.ndarray]
    metrics: dict[str, np.ndarray]
    latency_ms_p50: float

    def to_json(self) -> dict[str, float]:
        means = {name: round(float(values.mean()), 6) for name, values in self.metrics.items()}
        return means | {"latency_ms_p50": round(self.latency_ms_p50, 3)}


def run_row(scorer: Scorer, sets: Sequence[CandidateSet]) -> Row:
    """Rank every query's candidates with one ranker."""
    scores, seconds = [], []
    for item in sets:
        started = time.perf_counter()
        scores.append(scorer.score(item.query, item.documents))
        seconds.append(time.perf_counter() - started)
    per_query = [query_metrics(values, item.positives) for values, item in zip(scores, sets, strict=True)]
    metrics = {name: np.array([metric[name] for metric in per_query]) for name in per_query[0]}
    return Row(scores, metrics, float(np.median(seconds)) * 1_000)


def compare(rows: Mapping[str, Row], sets: Sequence[CandidateSet], seed: int, models: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of `metrics.json`: rows, their intervals, and the candidate's paired differences to each.

    Args:
        rows: by name: ``none``, ``base``, perhaps ``deployed``, ``candidate``.
        sets: what they ranked.
        seed: of the candidates and of the bootstrap.
        models: row name to model address.
    """
    candidate = rows[CANDIDATE]
    return {
        "queries": len(sets),
        "candidates_per_query": max(len(item.documents) for item in sets),
        "seed": seed,
        "rows": {name: row.to_json() for name, row in rows.items()},
        "intervals": {
            name: {metric: bootstrap_interval(row.metrics[metric], seed).to_json() for metric in COMPARED_METRICS}
            for name, row in rows.items()
        },
        "differences": {
            f"{CANDIDATE}-{name}": {
                metric: bootstrap_interval(candidate.metrics[metric] - row.metrics[metric], seed).to_json()
                for metric in COMPARED_METRICS
            }
            for name, row in rows.items()
            if name != CANDIDATE
        },
        "models": dict(models),
    }


def golden_queries(rows: Mapping[str, Row], sets: Sequence[CandidateSet]) -> dict[str, Any]:
    """Return the content of `golden.json`: queries whose scores a deployment must reproduce.

    Queries that the candidate answers right come first, so that they can be shown as well as checked.
    """
    candidate, base = rows[CANDIDATE], rows["base"]
    order = sorted(range(len(sets)), key=lambda index: -candidate.metrics["mrr"][index])
    return {
        "queries": [
            {
                "query": sets[index].query,
                "documents": list(sets[index].documents),
                "positive": min(sets[index].positives),
                "scores": _sigmoid(candidate.scores[index]),
                "base_scores": _sigmoid(base.scores[index]),
            }
            for index in order[:GOLDEN_QUERIES]
        ]
    }


def _sigmoid(logits: np.ndarray) -> list[float]:
    return [float(f"{value:.8g}") for value in 1 / (1 + np.exp(-logits.astype(np.float64)))]
