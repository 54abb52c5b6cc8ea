"""The gate: a candidate that does not beat what it must beat does not go live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ko_reranker.data.errors import PipelineError

_NAMES = {"none": "no reranker (BM25 over morphemes)", "base": "its base model", "deployed": "the deployed model"}


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate is measured by.

    Attributes:
        metric: a metric of the evaluation, such as ``mrr`` or ``ndcg@10``.
        must_beat: rows of the evaluation (``none``, ``base``, ``deployed``) that the candidate's mean must exceed. A row the
            evaluation does not have (no model is deployed yet) asks for nothing.
    """

    metric: str
    must_beat: tuple[str, ...]


def decide(metrics: dict[str, Any], gate: Gate) -> dict[str, Any]:
    """Return ``passed``, the figures, and the decision in a sentence.

    Raises:
        PipelineError: when the evaluation has no candidate row or no such metric.
    """
    rows = metrics["rows"]
    try:
        scores = {name: float(row[gate.metric]) for name, row in rows.items()}
        candidate = scores["candidate"]
    except KeyError as error:
        raise PipelineError(f"the evaluation has no {error}: gate.metric is {gate.metric}") from None
    lost = [name for name in gate.must_beat if name in scores and not candidate > scores[name]]
    figures = ", ".join(f"{name} {score:.3f}" for name, score in sorted(scores.items(), key=lambda item: -item[1]))
    evidence = f"{gate.metric} over {metrics['queries']} queries: {figures}"
    if lost:
        what = " and ".join(_NAMES[name] for name in lost)
        message = f"The candidate does not beat {what} and was not released. {evidence}."
    else:
        message = f"The candidate beats {' and '.join(_NAMES[name] for name in gate.must_beat)}. {evidence}."
    return {"passed": not lost, "message": message, "metric": gate.metric, "scores": scores}
