"""Attention within each sequence of a packed row, for the models of `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Row:
    """What stands in the row being computed, sequence after sequence.

    Attributes:
        lengths: tokens of each sequence.
        bounds: int32, (sequences + 1,), on the model's device: where each sequence starts, and where the last one ends.
        streams: the numbers, 0 or more, that each sequence's dropout is drawn from.
    """

    lengths: Sequence[int]
    bounds: torch.Tensor
    streams: Sequence[tuple[int, ...]]

    @property
    def firsts(self) -> torch.Tensor:
        """The place of each sequence's first token, (sequences,)."""
        return self.bounds[:-1].long()

    def lengths_of(self, rows: int) -> Sequence[int]:
        """Return what each sequence has in a tensor of so many rows: all its tokens, or its first one alone."""
        return self.lengths if rows == sum(self.lengths) else [1] * len(self.lengths)


def draw_keep_mask(stream: Sequence[int], place: int, p: float, out: torch.Tensor) -> torch.Tensor:
    """Fill a contiguous fp32 tensor with the dropout mask of one sequence, 0 or 1 / (1 - p), and return it.

    Args:
        stream: the sequence's own numbers.
        place: the number of the place in the model.
        p: the share of zeros, to 1 / 65,536.
        out: of the mask's shape.
    """
    # NumPy's SFC64 and 16 bits an element: a tenth of the time of `Tensor.bernoulli_`, which was an eighth of a step's.
    kept = round((1 - p) * 2**16)
    bits = np.random.SFC64((*stream, place)).random_raw(-(-out.numel() // 4)).view(np.uint16)[: out.numel()]
    mask = out.view(-1).numpy()
    mask[:] = (bits < kept).view(np.uint8)
    mask *= 2**16 / kept
    return out


def packed_attention(
    module: nn.Module,
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
        module: the attention, which `PackedClassifier` gave the attributes `packed` and `place`.
        query: (1, heads, rows, channels); every token's, or those of the sequences' first tokens.
        key: (1, heads, tokens, channels).
        value: (1, heads, tokens, channels).
        dropout: the share of attention weights to drop.
        scaling: of the scores; None takes 1 / sqrt(channels).
        sliding_window: tokens further away than this less one are not seen; None sees all.

    Returns:
        (1, rows, heads, channels), and None for the weights, which nobody keeps.
    """
    row: Row = module.packed.row
    reach = None if sliding_window is None else sliding_window - 1
    if query.is_cuda:
        sixteen_bits = query.dtype in (torch.float16, torch.bfloat16)
        if sixteen_bits and torch.cuda.get_device_capability(query.device)[0] >= 8:
            return _flash(row, query, key, value, dropout, scaling, reach), None
        if reach is None:
            return _memory_efficient(row, query, key, value, dropout, scaling), None
    return _one_by_one(row, module.place, query, key, value, dropout, scaling, reach), None


def first_token_attention(module: nn.Module, first: torch.Tensor, hidden: torch.Tensor, dropout: float) -> torch.Tensor:
    """Let each sequence's first token attend to its sequence, on a CPU, without computing any key or value.

    A score is ``query · (K state + bias)``, which is ``(query K) · state + query · bias``; what is attended to is ``V`` times
    the weighted sum of states, and as much of its bias as dropout left of the weights.

    Args:
        module: the attention of BERT or its kin, which `PackedClassifier` gave the attributes `packed` and `place`.
        first: (sequences, channels).
        hidden: (tokens, channels).
        dropout: the share of attention weights to drop.

    Returns:
        (1, sequences, heads, head size).
    """
    row: Row = module.packed.row
    query = module.query(first).unflatten(1, (module.num_attention_heads, -1)) * module.scaling  # (sequences, heads, head size)
    key, value = (linear.weight.unflatten(0, query.shape[1:]) for linear in (module.key, module.value))
    key_bias, value_bias = (linear.bias.unflatten(0, query.shape[1:]) for linear in (module.key, module.value))
    looks = torch.einsum("shd,hdc->shc", query, key)
    offsets = torch.einsum("shd,hd->sh", query, key_bias)
    sums, shares = [], []
    for look, offset, states, stream in zip(looks, offsets, hidden.split(list(row.lengths)), row.streams, strict=True):
        scores = look @ states.T + offset[:, None]  # (heads, tokens)
        weights = scores.softmax(-1).to(states.dtype)
        if dropout:
            weights = weights * draw_keep_mask(stream, module.place, dropout, torch.empty(weights.shape)).to(weights.dtype)
        sums.append(weights @ states)
        shares.append(weights.sum(-1))
    seen = torch.einsum("shc,hdc->shd", torch.stack(sums), value) + torch.stack(shares)[..., None] * value_bias
    return seen[None]


def _one_by_one(
    row: Row,
    place: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    reach: int | None,
) -> torch.Tensor:
    lengths = list(row.lengths_of(query.shape[2]))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if dropout and not query.is_cuda:
        return _DropoutAttention.apply(query, key, value, row, lengths, place, dropout, scale, reach)
    # On a CPU PyTorch's fused attention takes three times as long in bf16; on a GPU it has no dropout under a window.
    spelt_out = dropout or (query.dtype == torch.bfloat16 and not query.is_cuda)
    outputs = []
    for q, k, v in zip(*_split(row, lengths, query, key, value), strict=True):
        seen = _window(q, k, reach)
        if spelt_out:
            scores = (q * scale) @ k.transpose(1, 2)  # (heads, queries, keys)
            if seen is not None:
                scores = scores.masked_fill(~seen, -torch.inf)
            outputs.append(F.dropout(scores.softmax(-1).to(q.dtype), dropout) @ v)
        else:
            outputs.append(F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=seen, scale=scale)[0])
    return torch.cat(outputs, 1).transpose(0, 1).unsqueeze(0)


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
        row: Row,
        lengths: list[int],
        place: int,
        dropout: float,
        scale: float,
        reach: int | None,
    ) -> torch.Tensor:
        output = _by_tokens(query)
        kept = []
        sequences = zip(*_split(row, lengths, query, key, value), output.split(lengths), row.streams, strict=True)
        for q, k, v, out, stream in sequences:
            scores = _times(q, k.transpose(1, 2), scale)  # (heads, queries, keys)
            seen = _window(q, k, reach)
            if seen is not None:
                scores.masked_fill_(~seen, -torch.inf)
            weights = torch.softmax(scores, -1, out=scores)
            dropped = draw_keep_mask(stream, place, dropout, torch.empty(weights.shape)).to(weights.dtype).mul_(weights)
            out.copy_((dropped @ v).transpose(0, 1))
            kept += (weights, dropped)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.rest = row, lengths, scale
        return output.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        row, lengths, scale = ctx.rest
        gradients = [_by_tokens(part) for part in (query, key, value)]
        results = _split(row, lengths, *(part.transpose(0, 1).unsqueeze(0) for part in gradients))
        arrived = gradient[0].transpose(0, 1).split(lengths, 1)  # (heads, queries, channels) each
        parts = _split(row, lengths, query, key, value)
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


def _split(row: Row, lengths: Sequence[int], *packed: torch.Tensor) -> list[Sequence[torch.Tensor]]:
    """Split queries, keys and values, (1, heads, rows, channels) each, into the sequences' own, (heads, rows, channels)."""
    return [part[0].split(list(count), 1) for part, count in zip(packed, (lengths, row.lengths, row.lengths), strict=True)]


def _by_tokens(states: torch.Tensor) -> torch.Tensor:
    """Make room for what is as large as (1, heads, rows, channels), as (rows, heads, channels)."""
    _, heads, rows, channels = states.shape
    return states.new_empty(rows, heads, channels)


def _times(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _window(query: torch.Tensor, key: torch.Tensor, reach: int | None) -> torch.Tensor | None:
    """Return which keys a sequence's queries see, (queries, keys), or None for all; a first token alone stands at place 0."""
    queries, keys = query.shape[1], key.shape[1]
    if reach is None or keys <= reach + 1:
        return None
    distance = torch.arange(queries, device=query.device)[:, None] - torch.arange(keys, device=query.device)
    return distance.abs() <= reach


def _query_bounds(row: Row, query: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return where each sequence's queries start, and how many a sequence has at most."""
    if query.shape[2] == sum(row.lengths):
        return row.bounds, max(row.lengths)
    return torch.arange(len(row.bounds), dtype=torch.int32, device=query.device), 1


def _flash(
    row: Row,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    reach: int | None,
) -> torch.Tensor:
    # The operator beneath torch.nn.attention.varlen, which has no dropout.
    bounds, longest = _query_bounds(row, query)
    output, *_ = torch.ops.aten._flash_attention_forward(
        *(part[0].transpose(0, 1) for part in (query, key, value)),  # (rows, heads, channels)
        bounds,
        row.bounds,
        longest,
        max(row.lengths),
        dropout,
        False,
        False,
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )
    return output.unsqueeze(0)


def _memory_efficient(
    row: Row, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None
) -> torch.Tensor:
    # For what flash attention does not do: fp32, and GPUs before Ampere such as those of the published run.
    bounds, longest = _query_bounds(row, query)
    output, *_ = torch.ops.aten._efficient_attention_forward(
        *(part.transpose(1, 2) for part in (query, key, value)),  # (1, rows, heads, channels)
        None,
        bounds,
        row.bounds,
        longest,
        max(row.lengths),
        dropout,
        0,
        torch.is_grad_enabled(),
        scale=scaling,
    )
    return output
