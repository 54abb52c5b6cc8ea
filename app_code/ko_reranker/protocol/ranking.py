"""From logits to the order and the numbers of an answer."""

from __future__ import annotations

import math

from .canonical import RerankRequest, RerankResult


def ranked(request: RerankRequest, result: RerankResult) -> list[int]:
    """Return document indexes, best first, cut to ``top_n``.

    By logit, because sigmoids of good documents tie near 1; equal logits keep the caller's order; blank documents are last.
    """
    documents, logits = request.documents, result.logits
    order = sorted(range(len(documents)), key=lambda index: (documents[index].blank, -logits[index]))
    return order[: request.top_n]


def scores(request: RerankRequest, result: RerankResult) -> list[float]:
    """Return one score per document, as it is written: sigmoid or raw logit, at most 8 significant digits."""
    if request.raw_scores:
        return [written(logit) for logit in result.logits]
    return [
        0.0 if document.blank else written(sigmoid(logit))
        for document, logit in zip(request.documents, result.logits, strict=True)
    ]


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
