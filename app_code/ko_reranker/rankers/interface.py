"""What every ranker can do, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Dtype = Literal["auto", "fp32", "bf16", "fp16"]


class RankerError(Exception):
    """A model cannot be used as a ranker; the message says why."""


@dataclass(frozen=True)
class Scored:
    """The scores of one query's documents, in the order of the documents.

    Attributes:
        logits: float32, (documents,); the higher, the more relevant; comparable across queries.
        tokens: int32, (documents,); tokens read per document, the query's and special ones included.
        truncated: bool, (documents,); whether a document's end was cut off.
        query_truncated: whether the query itself was cut, to half the ranker's length.
    """

    logits: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    query_truncated: bool


class Ranker(Protocol):
    """Scores documents against a query; a pair's logit does not depend on what else is scored with it.

    Attributes:
        max_length: the most tokens a pair may have; longer documents are cut.
        model_id: the model's name, for answers and logs.
    """

    max_length: int
    model_id: str

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """Return float32 logits, (documents,)."""
        ...

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return float32 logits, (pairs,), of (query, document) pairs."""
        ...

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scored:
        """Return the logits together with what was read and what was cut."""
        ...


def load_ranker(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> Ranker:
    """Load a ranker.

    Args:
        model: a folder, ``s3://bucket/prefix/``, a hub id, or ``sample:tiny``.
        device: ``auto`` takes a GPU when there is one; else ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` is fp32 on a CPU; on a GPU bf16, or fp16 where bf16 is not native.
        max_length: tokens per pair; None takes what the model was trained with (`reranker.json`), else 512.
        batch_tokens: tokens, padding included, in one forward pass; None takes 2,048 on a CPU and 65,536 on a GPU.

    Raises:
        ModelNotFoundError: the model cannot be had.
        RankerError: it can, but it is no ranker.
    """
    from ko_reranker.models import resolve_model
    from ko_reranker.rankers.cross_encoder import CrossEncoder

    return CrossEncoder.load(
        resolve_model(model),
        model_id=str(model),
        device=device,
        dtype=dtype,
        max_length=max_length,
        batch_tokens=batch_tokens,
    )
