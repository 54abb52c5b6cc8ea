"""A request whose answer is ranked together with the first stage's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ko_reranker.fusion import fuse
from ko_reranker.protocol.ranking import lost_in_the_middle, sigmoid

from .messages import Ranking


@dataclass(frozen=True, slots=True)
class Fusion:
    """What is done to a request and its answer.

    Attributes:
        first_stage_scores: of BM25 or the retriever, one per document.
        weight: theirs, 0 to 1.
        options: of the request, as the caller gave them.
    """

    first_stage_scores: Sequence[float]
    weight: float
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        fuse((), (), weight=self.weight)  # a wrong weight is told before anything is sent

    def request_options(self) -> dict[str, Any]:
        """Return the options of the request that is sent: every document's logit is needed."""
        return {key: value for key, value in self.options.items() if key not in ("top_n", "order")} | {"raw_scores": True}

    def rank(self, ranking: Ranking) -> Ranking:
        """Return the answer in the order of both scores; the scores in it stay the reranker's."""
        logits = [item.score for item in sorted(ranking, key=lambda item: item.index)]
        fused = fuse(self.first_stage_scores, logits, weight=self.weight)
        best = sorted(ranking, key=lambda item: (-fused[item.index], item.index))[: self.options.get("top_n")]
        if self.options.get("order") == "lost_in_the_middle":
            best = lost_in_the_middle(best)
        if not self.options.get("raw_scores"):
            best = [replace(item, score=sigmoid(item.score)) for item in best]
        return replace(ranking, results=tuple(best))
