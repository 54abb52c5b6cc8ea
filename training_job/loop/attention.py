"""Attention within each sequence of a packed row, for the models of `transformers`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def keep_mask(stream: Sequence[int], place: int, shape: Sequence[int], p: float, like: torch.Tensor) -> torch.Tensor:
    """Return the dropout mask of one sequence: 0, or 1 / (1 - p).

    Args:
        stream: the sequence's own numbers.
        place: the number of the place in the model.
        shape: of the mask.
        p: the share of zeros, to 1 / 65,536.
        like: a tensor of the dtype.
    """
    # NumPy's SFC64 and 16 bits an element: a tenth of the time of `Tensor.bernoulli_`, which was an eighth of a step's.
    kept, size = round((1 - p) * 2**16), math.prod(shape)
    bits = np.random.SFC64((*stream, place)).random_raw(-(-size // 4)).view(np.uint16)[:size]
    mask = (bits < kept).view(np.uint8).astype(np.float32)
    mask *= 2**16 / kept
    return torch.from_numpy(mask).view(*shape).to(like.dtype)


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
            weights = weights * keep_mask(stream, module.place, weights.shape, dropout, weights)
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
    lengths = row.lengths_of(query.shape[2])
    keys, values = (states.split(list(row.lengths), 2) for states in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # PyTorch's fused attention has no dropout of ours, and on a CPU it takes three times as long in bf16.
    spelt_out = dropout or (query.dtype == torch.bfloat16 and not query.is_cuda)
    outputs = []
    for q, k, v, stream in zip(query.split(lengths, 2), keys, values, row.streams, strict=True):
        # A first token alone stands at place 0, like a whole sequence's.
        seen = None if reach is None or k.shape[2] <= reach + 1 else _window(q.shape[2], k.shape[2], reach, q.device)
        if spelt_out:
            scores = (q * scale) @ k.transpose(2, 3)  # (1, heads, queries, keys)
            if seen is not None:
                scores = scores.masked_fill(~seen, -torch.inf)
            weights = scores.softmax(-1).to(q.dtype)
            if dropout:
                gpu = query.is_cuda
                weights = F.dropout(weights, dropout) if gpu else weights * keep_mask(stream, place, weights.shape, dropout, q)
            outputs.append(weights @ v)
        else:
            outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale))
    return torch.cat(outputs, 2).transpose(1, 2)


def _window(queries: int, keys: int, reach: int, device: torch.device) -> torch.Tensor:
    distance = torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)
    return distance.abs() <= reach  # (queries, keys)


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
