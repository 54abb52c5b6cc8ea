"""The gate: a candidate that does not hold its own against what is there does not go live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ko_reranker.data.errors import PipelineError

_NAMES = {"none": "no reranker (BM25)", "base": "its base model", "deployed": "the deployed model"}
# Of the candidate's paired difference to a row: what of its mean and interval must reach the margin, and how that is said.
_DEMANDS = {"not_below": ("high", "not below"), "above": ("mean", "above"), "clearly_above": ("low", "clearly above")}


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is asked of the candidate against one row.

    Attributes:
        demand: ``not_below`` fails a candidate that is worse beyond noise: the whole interval (95 %) of the paired difference
            lies under the margin. ``above`` asks the mean to exceed it, ``clearly_above`` the whole interval.
            ``nothing`` asks for nothing.
        margin: the difference that is asked for, from -1 to 1; negative allows for a loss.
    """

    demand: Literal["nothing", "not_below", "above", "clearly_above"]
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.margin <= 1:
            raise ValueError(f"margin must be from -1 to 1, is {self.margin}")

    def met(self, difference: Mapping[str, float]) -> bool:
        """Return whether a paired difference, with ``mean``, ``low`` and ``high``, is enough."""
        value = difference[_DEMANDS[self.demand][0]]
        return value >= self.margin if self.demand == "not_below" else value > self.margin

    def sentence(self, name: str, difference: Mapping[str, float]) -> str:
        """Return the demand and the figures it is judged by, in words."""
        margin = f" by {self.margin:+.3f}" if self.margin else ""
        interval = f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
        return f"{_DEMANDS[self.demand][1]} {_NAMES[name]}{margin} ({interval})"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate is measured by.

    Attributes:
        metric: a metric of the evaluation, such as ``mrr`` or ``ndcg@10``.
        must_beat: by row of the evaluation (``none``, ``base``, ``deployed``), those that are asked for something. A row that
            the evaluation does not have (no model is deployed yet) asks for nothing.
        min_queries: an evaluation with fewer says too little to release by.
    """

    metric: str
    must_beat: Mapping[str, Requirement]
    min_queries: int = 1

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Gate:
        return cls(**{**row, "must_beat": {name: Requirement(**asked) for name, asked in row["must_beat"].items()}})


def decide(metrics: dict[str, Any], gate: Gate) -> dict[str, Any]:
    """Return ``passed``, the figures, and the decision in a sentence.

    Args:
        metrics: the content of `metrics.json`.
        gate: what is asked.

    Raises:
        PipelineError: when the evaluation has no such metric, or no difference between the candidate and a row that counts.
    """
    rows = metrics["rows"]
    try:
        scores = {name: float(row[gate.metric]) for name, row in rows.items()}
        asked = {name: requirement for name, requirement in gate.must_beat.items() if name in scores}
        differences = {name: metrics["differences"][f"candidate-{name}"][gate.metric] for name in asked}
    except KeyError as error:
        raise PipelineError(f"the evaluation has no {error}: evaluation.metric is {gate.metric}") from None
    missed = [name for name, requirement in asked.items() if not requirement.met(differences[name])]
    figures = ", ".join(f"{name} {score:.3f}" for name, score in sorted(scores.items(), key=lambda item: -item[1]))
    evidence = f"{gate.metric} over {metrics['queries']} queries: {figures}"
    enough = metrics["queries"] >= gate.min_queries

    def said(names: Iterable[str]) -> str:
        return " and ".join(asked[name].sentence(name, differences[name]) for name in names)

    if not enough:
        message = (
            f"The candidate was not released: {metrics['queries']} queries are too few to judge it by, evaluation.min_queries "
            f"is {gate.min_queries}. Add records, or raise translation.dev_fraction. {evidence}."
        )
    elif missed:
        message = f"The candidate was not released. It had to be {said(missed)}. {evidence}."
    else:
        message = f"The candidate is {said(asked)}. {evidence}." if asked else f"There is nothing to compare with. {evidence}."
    return {"passed": enough and not missed, "message": message, "metric": gate.metric, "scores": scores}
