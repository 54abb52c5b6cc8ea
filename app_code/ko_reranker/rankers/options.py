"""How a model computes, whichever family it is of. Standard library only: commands make these before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ko_reranker.instances import Dtype


@dataclass(frozen=True)
class EngineOptions:
    """How a model computes, and how it reads what is long.

    Attributes:
        device: ``auto`` takes a GPU when there is one, and refuses one that it can't use; else ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` is on a GPU bf16, or fp16 where bf16 is not native; on a CPU fp32, but bf16 where the CPU has
            instructions for it that pay (AMX, AMD's AVX512-BF16) and the model is a cross-encoder that is computed without
            padding: nothing else was measured to gain. ``int8``, on a CPU, is about twice as fast as fp32 and ranks almost, but
            not exactly, alike.
        max_length: tokens per sequence; None takes what the model was trained with (`reranker.json`), else the family's own.
        batch_tokens: tokens in one forward pass; None takes 1,024 on a CPU and 16,384 on a GPU.
        workers: threads that compute at once; None takes one a CPU core, at most 8, and one on a GPU.
        max_chunks: chunks that a document too long for the model is read in; 1 cuts its end off instead.
        chunk_overlap: tokens that neighbouring chunks share, at most half of a chunk.
        max_queue_tokens: tokens that may wait for the model when requests are submitted; None for any number.
        vector_cache_bytes: documents' vectors that a late-interaction model keeps, in bytes, for when they come again, in
            float16; 0 keeps none, and compares in float32.
        prompt: what a generative model is asked, in place of what its folder says: the name of a prompt that comes with the
            library, or a YAML file. It says how documents are ranked, too. None for the folder's; other families take none.
    """

    device: str = "auto"
    dtype: Dtype = "auto"
    max_length: int | None = None
    batch_tokens: int | None = None
    workers: int | None = None
    max_chunks: int = 64
    chunk_overlap: int = 64
    max_queue_tokens: int | None = None
    vector_cache_bytes: int = 512_000_000
    prompt: str | None = None
