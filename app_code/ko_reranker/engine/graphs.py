"""Forward passes on a GPU as recorded graphs, one for each of some sizes.

Launching a 24-layer model operation by operation takes 12 to 15 ms of CPU, more than a fast GPU needs to compute 50 passages.
A CUDA graph launches all of it at once, but only for the very shapes it was recorded with. So a micro-batch is brought to the
next larger of a ladder of sizes; steps are small against the sizes, and so is what that wastes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .encoders import Encoder
from .packing import PackedBatch, pack

if TYPE_CHECKING:
    from ko_reranker.rankers.pairs import EncodedPair

# A size has room for a sequence in this many tokens.
TOKENS_PER_SEQUENCE = 64
_LEAST_TOKENS = 512
# Passes before the recording, in which kernels are chosen and workspaces allocated.
_WARM_UPS = 2


class Size(NamedTuple):
    """What a graph is recorded for."""

    tokens: int
    sequences: int


def ladder(budget: int, longest: int) -> list[Size]:
    """Return the sizes up to a budget of tokens, smallest first, each at most an eighth or 512 tokens above the one before.

    Args:
        budget: tokens of the largest size.
        longest: tokens of the longest sequence: every size has room for the padding in sequences of this length.
    """
    sizes, tokens = [], 0
    while tokens < budget:
        tokens = min(budget, tokens + max(_LEAST_TOKENS, tokens // 8 // 128 * 128))
        sizes.append(Size(tokens, tokens // TOKENS_PER_SEQUENCE + -(-tokens // longest) + 1))
    return sizes


def fitting(sizes: Sequence[Size], batch: PackedBatch, longest: int) -> Size | None:
    """Return the smallest size that holds a batch and the padding it takes, None if none does."""
    for size in sizes:
        fillers = -(-(size.tokens - batch.tokens) // longest)
        if batch.tokens <= size.tokens and batch.sequences + fillers <= size.sequences:
            return size
    return None


class GraphForward:
    """Computes a micro-batch by launching the recorded graph of the next larger size.

    Args:
        encoder: the padding-free model, on a GPU in half precision.
        budget: tokens of the largest micro-batch; a sequence beyond is computed without a graph.
        longest: tokens of the longest sequence.
    """

    def __init__(self, encoder: Encoder, *, budget: int, longest: int, typed: bool) -> None:
        self.encoder = encoder
        self.longest = longest
        self.sizes = ladder(budget, longest)
        self._lock = threading.Lock()
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the smaller ones live in the memory that it has taken.
        self._graphs = {size: self._record(size, pool, typed=typed) for size in reversed(self.sizes)}

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[EncodedPair]) -> tuple[np.ndarray, int]:
        """Return float32 logits, (pairs,), and how many tokens were computed."""
        encoder = self.encoder
        batch = pack(pairs, first_position=encoder.first_position, padding_id=encoder.padding_id)
        size = fitting(self.sizes, batch, self.longest)
        if size is None:
            return encoder(batch.to(encoder.device)).cpu().numpy(), batch.tokens
        graph, inputs, logits = self._graphs[size]
        filled = batch.filled(*size, self.longest)
        with self._lock:  # the graph's inputs and outputs are always the same memory
            for name in ("ids", "types", "positions", "boundaries"):
                if getattr(inputs, name) is not None:
                    getattr(inputs, name).copy_(getattr(filled, name))
            graph.replay()
            return logits[: len(pairs)].cpu().numpy(), size.tokens

    @torch.inference_mode()
    def _record(self, size: Size, pool, *, typed: bool) -> tuple[torch.cuda.CUDAGraph, PackedBatch, torch.Tensor]:
        ids = torch.zeros(1, dtype=torch.int32)
        one = PackedBatch(ids, ids if typed else None, ids + self.encoder.first_position, torch.tensor([0, 1]), (0, 1), 1)
        inputs = one.filled(*size, self.longest).to(self.encoder.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.encoder(replace(inputs))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = self.encoder(inputs)
        return graph, inputs, logits
