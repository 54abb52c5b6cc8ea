"""Attention within each sequence of a packed batch: no sequence sees another, and no padding is attended to.

On a CPU every sequence is attended to by itself. On a GPU one launch does them all: PyTorch's variable-length flash
attention, which takes fp16 and bf16.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from .packing import PackedBatch

# In bf16 on a CPU PyTorch's fused attention takes half as long again as its three steps; longer sequences would want memory.
_SPELT_OUT_TOKENS = 512


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch, window: int | None = None
) -> torch.Tensor:
    """Let every token attend to the tokens of its own sequence.

    Args:
        query, key, value: (tokens, heads, head size).
        batch: which tokens are whose.
        window: a token sees those at most this far from it, on either side; None for the whole sequence.

    Returns:
        (tokens, heads * head size).
    """
    if query.is_cuda and query.dtype != torch.float32:
        out = _varlen(query, key, value, batch.boundaries, batch.boundaries, batch.longest, batch.longest, window)
        return out.flatten(1)
    # (1, heads, tokens, head size)
    query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
    parts = []
    for start, end in zip(batch.offsets, batch.offsets[1:], strict=False):
        length = end - start
        mask = _band(length, window, query.device) if window is not None and length > window + 1 else None
        part = _attend_alone(*(states.narrow(2, start, length) for states in (query, key, value)), mask)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1).flatten(2)[0]


def _attend_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Let one sequence attend to itself, (1, heads, tokens, head size)."""
    if query.dtype == torch.bfloat16 and query.shape[2] <= _SPELT_OUT_TOKENS:
        scores = torch.matmul(query * query.shape[3] ** -0.5, key.transpose(2, 3)).float()
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        return torch.matmul(scores.softmax(-1).to(value.dtype), value)
    return F.scaled_dot_product_attention(query, key, value, mask)


def attend_from_first(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Let only the first token of every sequence attend, to its whole sequence.

    Args:
        query: (sequences, heads, head size); of the first tokens.
        key, value: (tokens, heads, head size).
        batch: which tokens are whose.

    Returns:
        (sequences, heads * head size).
    """
    if query.is_cuda and query.dtype != torch.float32:
        ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        return _varlen(query, key, value, ones, batch.boundaries, 1, batch.longest, None).flatten(1)
    key, value = key.transpose(0, 1)[None], value.transpose(0, 1)[None]
    parts = [
        F.scaled_dot_product_attention(
            query[index][None, :, None], key.narrow(2, start, end - start), value.narrow(2, start, end - start)
        )
        for index, (start, end) in enumerate(zip(batch.offsets, batch.offsets[1:], strict=False))
    ]
    return torch.cat(parts).flatten(1)


def attend_to_states(query: torch.Tensor, states: torch.Tensor, batch: PackedBatch, *, scale: float) -> torch.Tensor:
    """Let each sequence's queries attend to the states of its tokens themselves, on a CPU.

    Args:
        query: (sequences, heads, hidden).
        states: (tokens, hidden).
        batch: which tokens are whose.
        scale: of the scores.

    Returns:
        (sequences, heads, hidden).
    """
    parts = []
    for index, (start, end) in enumerate(zip(batch.offsets, batch.offsets[1:], strict=False)):
        own = states[None, None, start:end]
        parts.append(F.scaled_dot_product_attention(query[None, index : index + 1], own, own, scale=scale)[0])
    return torch.cat(parts)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest_query: int,
    longest_key: int,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = (-1, -1) if window is None else (window, window)
    return varlen_attn(query, key, value, query_bounds, key_bounds, longest_query, longest_key, window_size=reach)


@functools.lru_cache(maxsize=1024)
def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Return which token may see which: bool, (length, length)."""
    places = torch.arange(length, device=device)
    return (places[:, None] - places[None, :]).abs() <= window
