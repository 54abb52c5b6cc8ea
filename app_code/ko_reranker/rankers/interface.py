"""What every ranker can do, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ko_reranker.engine import EngineObserver
    from ko_reranker.rankers.cross_encoder import CrossEncoder

Dtype = Literal["auto", "fp32", "bf16", "fp16", "int8"]


class RankerError(Exception):
    """A model cannot be used as a ranker; the message says why."""


@dataclass(frozen=True)
class Scored:
    """The scores of one query's documents, in the order of the documents.

    Attributes:
        logits: float32, (documents,); the higher, the more relevant; comparable across queries.
        tokens: int32, (documents,); tokens read per document, the query's and special ones included.
        truncated: bool, (documents,); whether a part of a document was not read.
        query_truncated: whether the query itself was cut, to half the ranker's length.
        chunks: int32, (documents,); in how many pieces a document was read, the best of which gave its logit.
    """

    logits: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    query_truncated: bool
    chunks: np.ndarray


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

    def score_detailed(
        self,
        query: str,
        documents: Sequence[str],
        *,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
    ) -> Scored:
        """Return the logits together with what was read and what was cut.

        Args:
            query: the question.
            documents: any number of them, the empty one included.
            max_tokens_per_doc: tokens of a document that are read; None for all.
            max_chunks_per_doc: pieces that a long document is read in; None for the ranker's own limit, which it cannot pass.
        """
        ...

    def close(self) -> None:
        """Let go of what scoring holds, such as threads."""
        ...


def load_ranker(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    workers: int | None = None,
    max_chunks: int = 64,
    chunk_overlap: int = 64,
    max_queue_tokens: int | None = None,
    observer: EngineObserver | None = None,
) -> CrossEncoder:
    """Load a ranker.

    Args:
        model: a folder, ``s3://bucket/prefix/``, a hub id, or ``sample:tiny``.
        device: ``auto`` takes a GPU when there is one; else ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` is fp32 on a CPU; on a GPU bf16, or fp16 where bf16 is not native. ``int8``, on a CPU, is about twice
            as fast and ranks almost, but not exactly, alike.
        max_length: tokens per pair; None takes what the model was trained with (`reranker.json`), else 512.
        batch_tokens: tokens in one forward pass; None takes 1,024 on a CPU and 16,384 on a GPU.
        workers: threads that score at once; None takes one a CPU core, at most 8, and one on a GPU.
        max_chunks: pieces that a document too long for the model is read in; 1 cuts its end off instead.
        chunk_overlap: tokens that neighbouring pieces share, at most half of a piece.
        max_queue_tokens: tokens that may wait for the model when requests are submitted; None for any number.
        observer: is told of every micro-batch and request.

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
        workers=workers,
        max_chunks=max_chunks,
        chunk_overlap=chunk_overlap,
        max_queue_tokens=max_queue_tokens,
        observer=observer,
    )
