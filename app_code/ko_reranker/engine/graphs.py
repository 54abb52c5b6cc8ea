"""Forward passes on a GPU as recorded graphs, one for each of some sizes.

Launching a 24-layer model operation by operation takes 12 to 15 ms of CPU, more than a fast GPU needs to compute 50 passages.
A CUDA graph launches all of it at once, but only for the very shapes it was recorded with. So a micro-batch is brought to the
next larger of a ladder of sizes; steps are small against the sizes, and so is what that wastes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from .attention import capability_of, gpu_kernel
from .encoders import Encoder
from .heads import Head
from .items import Item, Results
from .packing import PackedBatch, pack

# A number of tokens comes with room for a sequence in so many of them, and for more of shorter ones: a pair of short texts has
# some 20 tokens, and none has fewer than its special ones. An empty slot costs some launches of nothing in each layer, and a
# row in the last one.
_TOKENS_PER_SEQUENCE = (64, 16, 4)
# No micro-batch of a size's tokens has room for more sequences than one in so many.
TOKENS_PER_SEQUENCE = _TOKENS_PER_SEQUENCE[-1]
_LEAST_TOKENS = 512


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
        fillers = -(-tokens // longest) + 1
        slots = dict.fromkeys(max(1, tokens // each) + fillers for each in _TOKENS_PER_SEQUENCE)
        sizes += [Size(tokens, sequences) for sequences in slots]
    return sizes


def fitting(sizes: Sequence[Size], batch: PackedBatch, longest: int) -> Size | None:
    """Return the smallest size that holds a batch and the padding it takes, None if none does."""
    for size in sizes:
        fillers = -(-(size.tokens - batch.tokens) // longest)
        if batch.tokens <= size.tokens and batch.sequences + fillers <= size.sequences:
            return size
    return None


def recordable(encoder: Encoder) -> bool:
    """Return whether a graph can be recorded of an encoder: on a GPU, whose attention takes one launch for all sequences."""
    if encoder.device.type != "cuda":
        return False
    capability = capability_of(encoder.device)
    return gpu_kernel(encoder.dtype, encoder.head_size, capability, window=encoder.windowed) != "one_by_one"


class Recorder(Protocol):
    """Records a computation once, to be launched any number of times."""

    def record(self, compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        """Return what computes again, on the same memory, and the result, which it writes anew each time."""
        ...


class CudaRecorder:
    """Records CUDA graphs on one device, all of them on one stream and in one pool of memory.

    cuBLAS has a workspace for each stream that it was used on (ATen/cuda/CublasHandlePool.cpp), and what a stream has freed is
    kept for that stream: a stream for each graph would hold gigabytes for nobody.

    Args:
        device: the GPU; others stay as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        """Compute once, in which kernels are chosen and workspaces allocated, then record."""
        with torch.cuda.device(self.device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                compute()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = compute()

        def replay() -> None:
            with torch.cuda.device(self.device):
                graph.replay()

        return replay, result


class GraphForward:
    """Computes a micro-batch by launching the recorded graph of the next larger size.

    A product of matrices may go by another kernel in another size, which adds up in another order: in 16 bits a pair's logit
    depends on its company by up to `LOGIT_BOUNDS`.

    Args:
        encoder: the padding-free model, on a GPU, with attention that `gpu_kernel` has a kernel for.
        head: what is wanted of its states.
        budget: tokens of the largest micro-batch; a sequence beyond is computed without a graph.
        longest: tokens of the longest sequence.
        typed: whether the model knows token types.
        recorder: records the graphs, on the encoder's device.
    """

    def __init__(self, encoder: Encoder, head: Head, *, budget: int, longest: int, typed: bool, recorder: Recorder) -> None:
        self.encoder, self.head = encoder, head
        self.longest = longest
        self.sizes = ladder(budget, longest)
        self._lock = threading.Lock()
        # The largest first: the smaller ones live in the memory that it has taken.
        self._graphs = {size: self._record(size, recorder, typed=typed) for size in reversed(self.sizes)}

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item]) -> tuple[Results, int]:
        """Return the items' results, and how many tokens were computed."""
        encoder = self.encoder
        batch = pack(items, first_position=encoder.first_position, padding_id=encoder.padding_id)
        size = fitting(self.sizes, batch, self.longest)
        if size is None:
            return self.head.results(self._compute(batch.to(encoder.device)), batch), batch.tokens
        replay, inputs, output = self._graphs[size]
        filled = batch.filled(*size, self.longest)
        with self._lock:  # the graph's inputs and outputs are always the same memory
            for name in ("ids", "types", "positions", "boundaries"):
                if getattr(inputs, name) is not None:
                    getattr(inputs, name).copy_(getattr(filled, name))
            replay()
            return self.head.results(output, batch), size.tokens

    def _compute(self, batch: PackedBatch) -> torch.Tensor:
        return self.head(self.encoder(batch), batch)

    @torch.inference_mode()
    def _record(self, size: Size, recorder: Recorder, *, typed: bool) -> tuple[Callable[[], object], PackedBatch, torch.Tensor]:
        ids = torch.zeros(1, dtype=torch.int32)
        one = PackedBatch(ids, ids if typed else None, ids + self.encoder.first_position, torch.tensor([0, 1]), (0, 1), 1)
        inputs = one.filled(*size, self.longest).to(self.encoder.device)
        # A copy each time: what a batch derives from its tensors, and keeps, has to be derived anew by the graph.
        replay, output = recorder.record(lambda: self._compute(replace(inputs)))
        return replay, inputs, output
