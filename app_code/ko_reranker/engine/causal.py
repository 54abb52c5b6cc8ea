"""Causal attention within each sequence of a packed batch, of as many query heads a key as there are, behind a shared prefix.

On a CPU every sequence is attended to by itself. On a GPU flash attention does them all in one launch; what it does not do,
soft-capped scores and fp32, goes sequence by sequence there, too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .attention import capability_of, gpu_kernel
from .packing import PackedBatch
from .prefixes import LayerStates

# In bf16 on a CPU PyTorch's fused attention takes half as long again as its three steps; longer sequences would want memory.
_SPELT_OUT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Causal:
    """How a layer attends.

    Attributes:
        scale: of the scores.
        window: a token sees itself and those before it, so many in all; None for all of them.
        cap: scores are ``cap * tanh(score / cap)``; None for as they are.
    """

    scale: float
    window: int | None = None
    cap: float | None = None

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        prefixes: Sequence[LayerStates | None],
        tails: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Let every token attend to the prefix of its sequence, to those before it, and to itself.

        Args:
            query: (tokens that attend, heads, head size).
            key, value: (tokens, key heads, head size); the heads are a multiple of the key heads.
            batch: which tokens are whose.
            prefixes: the layer's keys and values of each sequence's prefix, None for no prefix.
            tails: of each sequence, how many of its last tokens attend, at least one; None for all.

        Returns:
            (tokens that attend, heads * head size).
        """
        if query.is_cuda and self.cap is None:
            windowed = self.window is not None
            if gpu_kernel(query.dtype, query.shape[2], capability_of(query.device), window=windowed) == "flash":
                return self._at_once(query, key, value, batch, prefixes, tails)
        parts = []
        asking = query.split(
            [end - start for start, end in itertools.pairwise(batch.offsets)] if tails is None else list(tails)
        )
        for own, prefix, (start, end) in zip(asking, prefixes, itertools.pairwise(batch.offsets), strict=True):
            parts.append(self._alone(own, *_behind(prefix, key[start:end], value[start:end])))
        return torch.cat(parts).flatten(1)

    def _alone(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Let the last tokens of one sequence attend, (queries, heads, head size)."""
        asking, size = len(query), len(key)
        if self.window is not None:  # what the first of them does not see, none does
            unseen = max(0, size - asking - self.window + 1)
            key, value, size = key[unseen:], value[unseen:], size - unseen
        spelt_out = self.cap is not None or (query.dtype == torch.bfloat16 and size <= _SPELT_OUT_TOKENS)
        windowed = self.window is not None and size > self.window
        mask = None
        if asking > 1 and (asking < size or windowed or spelt_out):
            rows = _visible(1 << (size - 1).bit_length(), self.window if windowed else None, query.device)
            mask = rows[size - asking : size, :size]
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        if spelt_out:
            return self._spelt_out(query, key, value, mask)[0].transpose(0, 1)
        grouped = query.shape[1] != key.shape[1]
        causal = asking > 1 and mask is None
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )[0].transpose(0, 1)  # fmt: skip

    def _spelt_out(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend, (1, heads, tokens, head size), step by step."""
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.matmul(query * self.scale, key.transpose(2, 3)).float()
        if self.cap is not None:
            scores = scores.div_(self.cap).tanh_() * self.cap  # not in place: the gradient of tanh is made of what it gave
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        return torch.matmul(scores.softmax(-1).to(value.dtype), value)

    def _at_once(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        prefixes: Sequence[LayerStates | None],
        tails: Sequence[int] | None,
    ) -> torch.Tensor:
        """Attend in one launch, in which a sequence's queries are its last tokens."""
        key_bounds, most_keys = batch.boundaries, batch.longest
        if any(prefix is not None for prefix in prefixes):
            pairs = [
                _behind(prefix, key[start:end], value[start:end])
                for prefix, (start, end) in zip(prefixes, itertools.pairwise(batch.offsets), strict=True)
            ]
            lengths = [len(keys) for keys, _ in pairs]
            key_bounds = _bounds(lengths, query.device)
            key, value, most_keys = torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs]), max(lengths)
        query_bounds, most_queries = batch.boundaries, batch.longest
        if tails is not None:
            query_bounds, most_queries = _bounds(tails, query.device), max(tails)
        # The operator beneath `torch.nn.attention.varlen`, which takes the same arguments from PyTorch 2.11 on.
        attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query, key, value, query_bounds, key_bounds, most_queries, most_keys, 0.0, True, False,
            scale=self.scale, window_size_left=None if self.window is None else self.window - 1,
        )[0]  # fmt: skip
        return attended.flatten(1)


def _behind(prefix: LayerStates | None, key: torch.Tensor, value: torch.Tensor) -> LayerStates:
    if prefix is None:
        return key, value
    return torch.cat([prefix[0], key]), torch.cat([prefix[1], value])


def _bounds(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return where each of some parts starts, and where the last one ends: int32, (parts + 1,)."""
    ends = list(itertools.accumulate(lengths, initial=0))
    return torch.tensor(ends, dtype=torch.int32).to(device, non_blocking=True)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # a gradient may need what scoring left here
def _visible(size: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return which token sees which: bool, (size, size)."""
    seen = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)
