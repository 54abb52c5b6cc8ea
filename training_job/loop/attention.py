"""Attention for the models of `transformers` in training: the engine's, and on a CPU one with each sequence's own dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ko_reranker.engine.attention import attend, band
from ko_reranker.engine.packing import PackedBatch

# The numbers, 0 or more, that a sequence's dropout is drawn from.
Stream = tuple[int, ...]


class Packed(Protocol):
    """What is being computed.

    Attributes:
        batch: the sequences.
        streams: of each sequence.
    """

    batch: PackedBatch
    streams: Sequence[Stream]


def draw_keep_mask(stream: Sequence[int], index: int, p: float, out: torch.Tensor) -> torch.Tensor:
    """Fill a contiguous fp32 tensor with the dropout mask of one sequence, 0 or 1 / (1 - p), and return it.

    Args:
        stream: the sequence's own numbers.
        index: of the module that drops.
        p: the share of zeros, to 1 / 65,536.
        out: of the mask's shape.
    """
    # NumPy's SFC64 and 16 bits an element: a tenth of the time of `Tensor.bernoulli_`, which was an eighth of a step's.
    kept = round((1 - p) * 2**16)
    bits = np.random.SFC64((*stream, index)).random_raw(-(-out.numel() // 4)).view(np.uint16)[: out.numel()]
    mask = out.view(-1).numpy()
    mask[:] = (bits < kept).view(np.uint8)
    mask *= 2**16 / kept
    return out


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; an attention function as `transformers.AttentionInterface` wants them.

    Args:
        module: the attention, which `PackedEncoder` gave the attributes `packed` and `index`.
        query, key, value: (1, heads, tokens, head size).
        dropout: the share of attention weights to drop.
        scaling: of the scores; None takes 1 / sqrt(head size).
        sliding_window: tokens further away than this less one are not seen; None sees all.

    Returns:
        (1, tokens, heads, head size), and None for the weights, which nobody keeps.
    """
    packed: Packed = module.packed
    window = None if sliding_window is None else sliding_window - 1
    if dropout and not query.is_cuda:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _DropoutAttention.apply(  # type: ignore[no-untyped-call]  # PyTorch's own
            query, key, value, packed.batch, packed.streams, module.index, dropout, scale, window
        ), None
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, head size)
    output = attend(queries, keys, values, packed.batch, window, scale=scaling, dropout=dropout)
    return output.view(1, query.shape[2], query.shape[1], query.shape[3]), None


class _DropoutAttention(torch.autograd.Function):
    """Attention with the sequences' own dropout, on a CPU.

    Spelt out because PyTorch's fused attention has no such dropout; and with its gradient, because a sequence's weights fit the
    processor's cache, so that what works in place on them costs little.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: PackedBatch,
        streams: Sequence[Stream],
        index: int,
        dropout: float,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        lengths = batch.lengths
        output = _by_tokens(query)
        kept: list[torch.Tensor] = []
        attended = batch.attended or lengths
        sequences = zip(*_split(lengths, attended, query, key, value), output.split(lengths), streams, strict=True)
        for q, k, v, out, stream in sequences:
            scores = _times(q, k.transpose(1, 2), scale)  # (heads, queries, keys)
            hidden = (
                ~band(len(out), window, q.device)[:, : k.shape[1]] if window is not None and len(out) > window + 1 else None
            )
            if hidden is not None:
                scores.masked_fill_(hidden, -torch.inf)
            weights = torch.softmax(scores, -1, out=scores)
            if hidden is not None and k.shape[1] < len(out):
                weights.masked_fill_(hidden, 0)  # not NaN for a token whose window holds none of those that are seen
            dropped = draw_keep_mask(stream, index, dropout, torch.empty(weights.shape)).to(weights.dtype).mul_(weights)
            out.copy_((dropped @ v).transpose(0, 1))
            kept += (weights, dropped)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.rest = lengths, attended, scale
        return output.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        lengths, attended, scale = ctx.rest
        gradients = [_by_tokens(part) for part in (query, key, value)]
        for part in gradients[1:] if list(attended) != lengths else ():
            part.zero_()  # nothing reaches a token that is not seen
        results = _split(lengths, attended, *(part.transpose(0, 1).unsqueeze(0) for part in gradients))
        arrived = gradient[0].transpose(0, 1).split(lengths, 1)  # (heads, queries, head size) each
        parts = _split(lengths, attended, query, key, value)
        for q, k, v, of_q, of_k, of_v, g, weights, dropped in zip(
            *parts, *results, arrived, kept[::2], kept[1::2], strict=True
        ):
            of_v.copy_(dropped.transpose(1, 2) @ g)
            # Through dropout and softmax in one: weights * (mask * gradient - sum(weights * mask * gradient)).
            of_scores = (g @ v.transpose(1, 2)).mul_(dropped)
            of_scores.addcmul_(weights, of_scores.sum(-1, keepdim=True), value=-1)
            of_q.copy_(_times(of_scores, k, scale))
            of_k.copy_(_times(of_scores.transpose(1, 2), q, scale))
        return *(part.transpose(0, 1).unsqueeze(0) for part in gradients), *[None] * 6


def _split(
    lengths: list[int], attended: Sequence[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> list[Sequence[torch.Tensor]]:
    """Split tensors of (1, heads, tokens, head size) into the sequences' own, (heads, tokens, head size), as far as seen."""
    queries, keys, values = (part[0].split(lengths, 1) for part in (query, key, value))
    return [queries, *([own[:, :seen] for own, seen in zip(all_, attended, strict=True)] for all_ in (keys, values))]


def _by_tokens(states: torch.Tensor) -> torch.Tensor:
    """Make room for what is as large as (1, heads, tokens, head size), as (tokens, heads, head size)."""
    _, heads, tokens, head_size = states.shape
    return states.new_empty(tokens, heads, head_size)


def _times(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)
