"""From logits to the order and the numbers of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from .canonical import RerankRequest, RerankResult

T = TypeVar("T")


def ranked(request: RerankRequest, result: RerankResult) -> list[int]:
    """Return document indexes, best first, cut to ``top_n``, in the order asked for.

    By logit, because sigmoids of good documents tie near 1; equal logits keep the caller's order; blank documents are last.
    """
    documents, logits = request.documents, result.logits
    order = sorted(range(len(documents)), key=lambda index: (documents[index].blank, -logits[index]))
    best = order[: request.top_n]
    return lost_in_the_middle(best) if request.order == "lost_in_the_middle" else best


def lost_in_the_middle(best_first: Sequence[T]) -> list[T]:
    """Return the items with the best at both ends and the worst in the middle: 1 3 5 … 6 4 2.

    Language models use what stands at the beginning and at the end of a long prompt better than what stands between
    (Liu et al. 2023, https://arxiv.org/abs/2307.03172).
    """
    return [*best_first[::2], *reversed(best_first[1::2])]


def scores(request: RerankRequest, result: RerankResult) -> list[float]:
    """Return one score per document, as it is written: the logit's sigmoid or the raw score, at most 8 significant digits.

    What is not absolute stands for a place, raw or not, and is written as it is.
    """
    if request.raw_scores and result.absolute:
        return [written(value) for value in result.raw or result.logits]
    return [
        0.0 if document.blank else written(sigmoid(logit) if result.absolute else logit)
        for document, logit in zip(request.documents, result.logits, strict=True)
    ]


def logits(result: RerankResult) -> list[float]:
    """Return one logit per document, as it is written: what a score is the sigmoid of, for every kind of model."""
    return [written(logit) for logit in result.logits]


def sigmoid(logit: float) -> float:
    """Return ``1 / (1 + exp(-logit))`` without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit)) if logit > -700 else 0.0


def written(value: float) -> float:
    """Return the number that JSON shows with a decimal point and at most 8 significant digits."""
    rounded = float(f"{value:.8g}")
    if "." in repr(rounded):
        return rounded
    # Python writes 0.00001 as 1e-05, which strict casts refuse: move by less than a float32 can tell.
    return float(f"{rounded * 1.0000001:.8g}")
