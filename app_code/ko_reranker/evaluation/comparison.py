"""Rankers side by side on the same candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ko_reranker.evaluation.candidates import CandidateSet
from ko_reranker.evaluation.metrics import Interval, bootstrap_intervals, ranking_metrics
from ko_reranker.fusion import fuse

NONE, BASE, DEPLOYED, CANDIDATE = "none", "base", "deployed", "candidate"
# What is plotted and sliced; all metrics are in the tables.
MAIN_METRICS = ("mrr", "ndcg@10", "has_right@1")
GOLDEN_QUERIES = 5
WORST_QUERIES = 10
# Characters of a query up to which it belongs to a slice.
_LENGTHS = ((15, "up to 15 characters"), (30, "16 to 30 characters"), (10**9, "over 30 characters"))


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a ranker says of one query's documents.

    Attributes:
        scores: float32, (documents,).
        tokens: read for them.
        model_calls: sequences that its model computed.
        absolute: whether the scores are more than ranks.
    """

    scores: np.ndarray
    tokens: int = 0
    model_calls: int = 0
    absolute: bool = True


# From a query and its documents.
Scorer = Callable[[str, Sequence[str]], Ranking]


@dataclass(frozen=True)
class Row:
    """One ranker's results.

    Attributes:
        scores: per query, one per document.
        metrics: by name, float64 (queries,).
        seconds: per query, to score its candidates on the machine of the evaluation; None where nothing was measured.
        tokens: read in all.
        model_calls: sequences computed in all.
        absolute: whether the scores are more than ranks.
        kind: what kind of ranker it is; empty for none.
        precision: what its model was computed in, and why; empty where there is no model.
    """

    scores: list[np.ndarray]
    metrics: dict[str, np.ndarray]
    seconds: np.ndarray | None = None
    tokens: int = 0
    model_calls: int = 0
    absolute: bool = True
    kind: str = ""
    precision: str = ""

    def to_json(self) -> dict[str, float]:
        figures = {name: round(float(values.mean()), 6) for name, values in self.metrics.items()}
        if self.seconds is not None:
            for percentile in (50, 95):
                figures[f"latency_ms_p{percentile}"] = round(float(np.percentile(self.seconds, percentile)) * 1_000, 3)
            figures["minutes_per_1000"] = round(float(self.seconds.mean()) * 1_000 / 60, 3)
        if self.tokens and self.seconds is not None:
            figures["tokens_per_second"] = round(self.tokens / float(self.seconds.sum()), 1)
            figures["tokens_per_query"] = round(self.tokens / len(self.seconds), 1)
            figures["calls_per_query"] = round(self.model_calls / len(self.seconds), 1)
        return figures


def row_of(scores: list[np.ndarray], sets: Sequence[CandidateSet]) -> Row:
    """Return the row of scores that are there already."""
    metrics = ranking_metrics(scores, [item.relevance for item in sets], [item.missed for item in sets])
    return Row(scores, metrics)


def first_stage_row(sets: Sequence[CandidateSet]) -> Row:
    """Return the row of no reranker: the first stage's own order."""
    return row_of([item.first_stage for item in sets], sets)


def fused_row(row: Row, sets: Sequence[CandidateSet], weight: float) -> Row:
    """Return a row whose scores are fused with the first stage's; see `ko_reranker.fusion`."""
    both = zip(sets, row.scores, strict=True)
    fused: list[np.ndarray] = [np.array(fuse(item.first_stage, scores, weight=weight)) for item, scores in both]
    return replace(row, scores=fused, metrics=row_of(fused, sets).metrics, kind=f"{row.kind} and BM25")


def run_row(scorer: Scorer, sets: Sequence[CandidateSet], progress: Callable[[int], None] = lambda done: None) -> Row:
    """Rank every query's candidates with one ranker.

    Args:
        scorer: what ranks.
        sets: what is ranked.
        progress: told after each query how many are done.
    """
    rankings, seconds = [], []
    # The first call of all pays for caches and threads.
    scorer(sets[0].query, sets[0].documents[:1])
    for done, item in enumerate(sets, start=1):
        started = time.perf_counter()
        rankings.append(scorer(item.query, item.documents) if item.documents else Ranking(np.zeros(0, dtype=np.float32)))
        seconds.append(time.perf_counter() - started)
        progress(done)
    return replace(
        row_of([ranking.scores for ranking in rankings], sets),
        seconds=np.array(seconds),
        tokens=sum(ranking.tokens for ranking in rankings),
        model_calls=sum(ranking.model_calls for ranking in rankings),
        absolute=all(ranking.absolute for ranking in rankings),
    )


def compare(
    rows: Mapping[str, Row], sets: Sequence[CandidateSet], seed: int, *, first_stage: str, models: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of `metrics.json`: rows, their intervals, slices, and each row's paired difference to those before it.

    Args:
        rows: by name, in the order in which they are shown: ``none`` first, what is judged last.
        sets: what they ranked.
        seed: of the candidates and of the bootstrap.
        first_stage: what found the candidates.
        models: row name to model address.
    """
    values = {(name, "", metric): column for name, row in rows.items() for metric, column in row.metrics.items()}
    names = list(rows)
    for index, name in enumerate(names):
        for other in names[:index]:
            for metric, column in rows[name].metrics.items():
                values[name, other, metric] = column - rows[other].metrics[metric]
    intervals = bootstrap_intervals(values, seed)

    def of(name: str, other: str = "") -> dict[str, dict[str, float]]:
        return {metric: intervals[name, other, metric].to_json() for metric in rows[name].metrics}

    right = sum(len(item.positives) + len(item.missed) for item in sets)
    return {
        "queries": len(sets),
        "candidates_per_query": max(len(item.documents) for item in sets),
        "first_stage": first_stage,
        "right_found": round(sum(len(item.positives) for item in sets) / right, 6),
        "seed": seed,
        "rows": {name: row.to_json() for name, row in rows.items()},
        "intervals": {name: of(name) for name in rows},
        "differences": {f"{name}-{other}": of(name, other) for index, name in enumerate(names) for other in names[:index]},
        "slices": _slices(rows, sets, seed),
        "models": dict(models),
        "kinds": {name: row.kind for name, row in rows.items() if row.kind},
        "precisions": {name: row.precision for name, row in rows.items() if row.precision},
    }


def _slices(rows: Mapping[str, Row], sets: Sequence[CandidateSet], seed: int) -> list[dict[str, Any]]:
    """Each slice's queries and every row's main metrics with intervals; a kind with one slice only says nothing new."""
    kinds = {
        "query length": [next(name for limit, name in _LENGTHS if len(item.query) <= limit) for item in sets],
        "source": [item.source for item in sets],
    }
    found = []
    for kind, labels in kinds.items():
        order = [name for _, name in _LENGTHS] if kind == "query length" else sorted(set(labels))
        slices = [(name, np.array([label == name for label in labels])) for name in order if name in labels]
        for name, members in slices if len(slices) > 1 else []:
            columns = {(row, metric): rows[row].metrics[metric][members] for row in rows for metric in MAIN_METRICS}
            intervals: dict[tuple[str, str], Interval] = bootstrap_intervals(columns, seed)
            figures = {row: {metric: intervals[row, metric].to_json() for metric in MAIN_METRICS} for row in rows}
            found.append({"by": kind, "name": name, "queries": int(members.sum()), "rows": figures})
    return found


def worst_queries(rows: Mapping[str, Row], sets: Sequence[CandidateSet]) -> dict[str, list[dict[str, Any]]]:
    """Return for each row but the first the queries whose right document it ranks lowest, with their texts.

    Queries whose right documents the first stage didn't find are no reranker's fault and are left out.
    """
    first = next(iter(rows.values()))
    rankable = [index for index, item in enumerate(sets) if item.positives]
    found = {}
    for name, row in list(rows.items())[1:]:
        chosen = sorted(rankable, key=lambda index: (row.metrics["mrr"][index], -first.metrics["mrr"][index]))[:WORST_QUERIES]
        found[name] = [
            {
                "query": sets[index].query,
                "source": sets[index].source,
                "rank": _rank(row, index),
                "rank_without": _rank(first, index),
                "right": _best(sets[index], row.scores[index], right=True),
                "first": _best(sets[index], row.scores[index], right=False),
            }
            for index in chosen
            if row.metrics["mrr"][index] < 1
        ]
    return found


def golden_queries(rows: Mapping[str, Row], sets: Sequence[CandidateSet]) -> dict[str, Any]:
    """Return the content of `golden.json`: queries whose scores, or whose order, a deployment must reproduce.

    Queries that the candidate answers right come first, so that they can be shown as well as checked.
    """
    candidate, base = rows[CANDIDATE], rows.get(BASE)
    rankable = (index for index, item in enumerate(sets) if item.positives)
    order = sorted(rankable, key=lambda index: -candidate.metrics["mrr"][index])
    return {
        "queries": [
            {
                "query": sets[index].query,
                "documents": list(sets[index].documents),
                "positive": min(sets[index].positives),
                "scores": _served(candidate, index),
                **({} if candidate.absolute else {"absolute": False}),
                **({"base_scores": _served(base, index)} if base else {}),
            }
            for index in order[:GOLDEN_QUERIES]
        ]
    }


def _rank(row: Row, index: int) -> int:
    return round(1 / float(row.metrics["mrr"][index]))


def _best(item: CandidateSet, scores: np.ndarray, *, right: bool) -> str:
    """The document that is ranked first, of the right ones or of all."""
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return next(item.documents[index] for index in order if item.relevance[index] or not right)


def _served(row: Row, index: int) -> list[float]:
    """Return the scores of a query as the endpoint says them."""
    logits = row.scores[index].astype(np.float64)
    return [float(f"{value:.8g}") for value in (1 / (1 + np.exp(-logits)) if row.absolute else logits)]
