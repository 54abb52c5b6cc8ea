"""Attention within each sequence of a packed batch: no sequence sees another, and no padding is attended to.

Serving and training both attend by it. On a CPU every sequence is attended to by itself. On a GPU one launch does them all, by
the kernel that `gpu_kernel` chooses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ko_reranker.instances import AMPERE
from ko_reranker.processor import multiplies_bf16_in_tiles

from .packing import PackedBatch

Kernel = Literal["flash", "memory_efficient", "one_by_one"]

# In bf16 on a CPU PyTorch's fused attention takes half as long again as its three steps, and with matrix units half; the
# scores of longer sequences would want memory.
_SPELT_OUT_TOKENS = 512
# It takes the exponentials of a row 16 at a time, and what is left at the end one by one: 205 keys take twice as long as 208.
_KEYS_AT_ONCE = 16


def gpu_kernel(dtype: torch.dtype, head_size: int, capability: tuple[int, int], *, window: bool = False) -> Kernel:
    """Return what attends within the sequences of a packed batch on a GPU.

    Flash attention takes 16 bits, GPUs from Ampere on, and heads of up to 256 channels, a multiple of 8. Memory-efficient
    attention takes fp32 and older GPUs, too, but no window that is open to both sides, no bf16 before Ampere, and only heads
    whose rows are aligned for tensor cores (`check_flash_attention_hardware_support`, `check_mem_efficient_hardware_support`
    and `minimum_gemm_alignment` in PyTorch's ATen/native/transformers/cuda/sdp_utils.cpp). What neither does is attended to
    sequence by sequence, which no graph can record: its launches depend on the lengths.

    Args:
        dtype: of query, key and value.
        head_size: channels of a head.
        capability: of the GPU, such as (7, 5) for a T4.
        window: whether a token sees only those near it.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    if half and capability >= AMPERE and head_size % 8 == 0 and head_size <= 256:
        return "flash"
    if window or (dtype == torch.bfloat16 and capability < AMPERE):
        return "one_by_one"
    return "memory_efficient" if head_size % (8 if half else 4) == 0 else "one_by_one"


def capability_of(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU."""
    return _capability(device.index)


@functools.lru_cache(maxsize=64)
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    batch: PackedBatch,
    window: int | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Let every token attend to the tokens of its own sequence, as far as those are seen; with a gradient where one is wanted.

    Args:
        query, key, value: (tokens, heads, head size).
        batch: which tokens are whose. One with tokens that are not seen goes sequence by sequence on a GPU, too.
        window: a token sees those at most this far from it, on either side; None for the whole sequence.
        scale: of the scores; None takes 1 / sqrt(head size).
        dropout: the share of attention weights to drop, drawn from PyTorch's generator.

    Returns:
        (tokens, heads * head size).
    """
    if query.is_cuda and batch.attended is None:
        kernel = gpu_kernel(query.dtype, query.shape[2], capability_of(query.device), window=window is not None)
        if kernel != "one_by_one":
            bounds, longest = batch.boundaries, batch.longest
            return attend_varlen(
                kernel, query, key, value, bounds, bounds, longest, longest, window=window, scale=scale, dropout=dropout
            ).flatten(1)
    # (1, heads, tokens, head size); split at once, for which a gradient is one copy and not one a sequence.
    sequences = (states.transpose(0, 1)[None].split(batch.lengths, 2) for states in (query, key, value))
    parts = []
    for length, seen, own, keys, values in zip(batch.lengths, batch.attended or batch.lengths, *sequences, strict=True):
        mask = band(length, window, query.device)[:, :seen] if window is not None and length > window + 1 else None
        part = _attend_alone(own, keys[:, :, :seen], values[:, :, :seen], mask, scale, dropout)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1).flatten(2)[0]


def _attend_alone(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """Let one sequence attend to itself, or to its first tokens: (1, heads, tokens, head size)."""
    # PyTorch's fused attention of a GPU has no dropout under a window.
    if dropout or _spelt_out_pays(query):
        scores = torch.matmul(query * (query.shape[3] ** -0.5 if scale is None else scale), key.transpose(2, 3)).float()
        if mask is None:
            weights = scores.softmax(-1)
        else:  # a token whose window holds none of those that are seen gets zeros, as from PyTorch's fused attention
            weights = scores.masked_fill_(~mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~mask, 0)
        return torch.matmul(F.dropout(weights.to(value.dtype), dropout), value)
    return fused_attention(query, key, value, mask, scale)


def _spelt_out_pays(query: torch.Tensor) -> bool:
    if query.dtype != torch.bfloat16:
        return False
    # With a gradient its scores are kept in any case.
    return query.requires_grad or (query.shape[2] <= _SPELT_OUT_TOKENS and not multiplies_bf16_in_tiles())


def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Return what `scaled_dot_product_attention` does, on a CPU of keys filled up to a number that suits it.

    Args:
        query: (1, heads, queries, head size).
        key, value: (1, heads, keys, head size).
        mask: bool, (queries, keys); which query sees which key; None for all.
        scale: of the scores; None takes 1 / sqrt(head size).
    """
    keys = key.shape[2]
    missing = -keys % _KEYS_AT_ONCE
    if missing and query.device.type == "cpu" and not query.requires_grad:
        # Copies, and not a look at the sequence behind this one, whose NaN would be this one's, masked or not.
        key, value = (F.pad(states, (0, 0, 0, missing)) for states in (key, value))
        mask = _first(keys, missing, key.device) if mask is None else F.pad(mask, (0, missing))
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def attend_from_first(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, *, dropout: float = 0.0
) -> torch.Tensor:
    """Let only the first token of every sequence attend, to its whole sequence.

    Args:
        query: (sequences, heads, head size); of the first tokens.
        key, value: (tokens, heads, head size).
        batch: which tokens are whose.
        dropout: the share of attention weights to drop, drawn from PyTorch's generator.

    Returns:
        (sequences, heads * head size).
    """
    if query.is_cuda:
        kernel = gpu_kernel(query.dtype, query.shape[2], capability_of(query.device))
        if kernel != "one_by_one":
            ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            bounds = (ones, batch.boundaries, 1, batch.longest)
            return attend_varlen(kernel, query, key, value, *bounds, dropout=dropout).flatten(1)
    keys, values = (states.transpose(0, 1)[None].split(batch.lengths, 2) for states in (key, value))
    sequences = zip(query[:, None, :, None].unbind(), keys, values, strict=True)
    return torch.cat([F.scaled_dot_product_attention(*own, dropout_p=dropout) for own in sequences]).flatten(1)


# From a sequence's index and the shape of its attention weights to what they are multiplied by, 0 or 1 / (1 - dropout).
DrawMask = Callable[[int, torch.Size], torch.Tensor]


class FirstTokenAttention:
    """Attention of each sequence's first token, (tokens, hidden) to (sequences, hidden).

    A score is ``query · (K state + bias)``, which is ``(query K) · state`` and a number that softmax does not see; what is
    attended to is ``V (sum of weighted states)`` and as much of its bias as dropout leaves of the weights. So no token's key or
    value is needed: in this layer they would be the whole work. A GPU's attention takes no heads as wide as the states: there
    keys and values are computed.

    Args:
        query, key, value: linear layers from and to the model's width.
        heads: how many there are.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        self.query, self.key, self.value = query, key, value
        self.heads = heads

    def __call__(
        self, states: torch.Tensor, batch: PackedBatch, *, dropout: float = 0.0, draw: DrawMask | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            states: (tokens, hidden).
            batch: which tokens are whose.
            dropout: the share of attention weights that a GPU drops.
            draw: gives the masks of the weights on a CPU; None drops none.

        Returns:
            (sequences, hidden).
        """
        query = self._by_head(self.query(states[batch.firsts]))  # (sequences, heads, head size)
        if states.is_cuda:
            key, value = self._by_head(self.key(states)), self._by_head(self.value(states))
            return attend_from_first(query, key, value, batch, dropout=dropout)
        key, value = (linear.weight.unflatten(0, query.shape[1:]) for linear in (self.key, self.value))
        absorbed = torch.einsum("shd,hdc->shc", query * query.shape[2] ** -0.5, key)  # (sequences, heads, hidden)
        sums, shares = _attend_to_states(absorbed, states, batch, draw)
        bias = self.value.bias.unflatten(0, query.shape[1:])
        attended: torch.Tensor = torch.einsum("shc,hdc->shd", sums, value) + shares * bias
        return attended.flatten(1)

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        by_head: torch.Tensor = rows.unflatten(1, (self.heads, -1))
        return by_head


def _attend_to_states(
    query: torch.Tensor, states: torch.Tensor, batch: PackedBatch, draw: DrawMask | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let each sequence's queries, (sequences, heads, hidden), attend to the states of its tokens themselves, on a CPU.

    Returns:
        The weighted sums of states, (sequences, heads, hidden), and the sums of the weights, (sequences, heads, 1), or 1.
    """
    sums, shares = [], []
    for index, (looking, own) in enumerate(zip(query.unbind(), states.split(batch.lengths), strict=True)):
        if draw is None and not query.requires_grad:
            seen = own[None, None]
            sums.append(F.scaled_dot_product_attention(looking[None, None], seen, seen, scale=1)[0, 0])
            continue
        # The gradient of fused attention is coarser where nearly all of the weight is on one token.
        weights = (looking @ own.T).softmax(-1).to(states.dtype)  # (heads, tokens)
        if draw is not None:
            weights = weights * draw(index, weights.shape).to(weights.dtype)
            shares.append(weights.sum(-1, keepdim=True))
        sums.append(weights @ own)
    return torch.stack(sums), torch.stack(shares) if shares else states.new_ones(())


def attend_varlen(
    kernel: Kernel,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    window: int | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """Attend within all sequences at once, on a GPU; with a gradient where one is wanted.

    The operators beneath `torch.nn.attention.varlen` and `scaled_dot_product_attention`, which have neither dropout nor bounds,
    or change from version to version; these take the same arguments in PyTorch 2.11 and 2.13.

    Args:
        kernel: ``flash`` or ``memory_efficient``, by `gpu_kernel`.
        query: (queries, heads, head size).
        key, value: (tokens, heads, head size).
        query_bounds, key_bounds: int32, (sequences + 1,); where each sequence's queries and tokens start, and the last end.
        longest_query, longest_key: no sequence has more.
        window: a token sees those at most this far from it, on either side; None for all. Of flash attention only.
        dropout: the share of attention weights to drop.
        scale: of the scores; None takes 1 / sqrt(head size).

    Returns:
        (queries, heads, head size).
    """
    bounds = (query_bounds, key_bounds, longest_query, longest_key)
    if kernel == "flash":
        attended: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query, key, value, *bounds, dropout, False, False,
            scale=scale, window_size_left=window, window_size_right=window,
        )[0]  # fmt: skip
        return attended
    alone = (states[None] for states in (query, key, value))
    sequence: torch.Tensor = torch.ops.aten._efficient_attention_forward(
        *alone, None, *bounds, dropout, 0, torch.is_grad_enabled() and query.requires_grad, scale=scale
    )[0]
    return sequence[0]


@functools.lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _first(seen: int, unseen: int, device: torch.device) -> torch.Tensor:
    """Return bool, (1, seen + unseen), of which the first ``seen`` are True."""
    return (torch.arange(seen + unseen, device=device) < seen)[None]


@functools.lru_cache(maxsize=1024)
@torch.inference_mode(False)  # a gradient may need what scoring left here
def band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Return which token of a sequence sees which through a window: bool, (length, length)."""
    indexes = torch.arange(length, device=device)
    return (indexes[:, None] - indexes[None, :]).abs() <= window
