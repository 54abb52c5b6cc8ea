"""Two attention heads that see which words of the question stand in the passage.

A cross-encoder that starts from an encoder of single texts spends its first thousands of groups at chance, until some head
finds out that a passage that repeats the question's words is a good one. So two heads of the first layer, those that say
least, start as finders of equal pieces, like those of the demonstration model (`samples/tiny_model.py`):

- Queries and keys are one and the same random projection of whitened pieces: a token attends to tokens of the same piece,
  and a little to those of like meaning.
- Values carry the segment (question or passage), and the output writes it along a direction that pieces hardly use: a
  question's word that is in the passage differs there from one that is not.

Nothing is frozen: what a match is worth, and everything else, is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention

_HEADS = 2
_SHARPNESS = 1.0  # score of two equal pieces per dimension of the projection; others score 0 on average
_LOUDNESS = 0.3  # of a match, relative to a token's state
_RANK = 128  # leading directions, at most a half; the ones behind them tell places apart rather than pieces


def wire_matching_heads(encoder: BertModel, texts: Sequence[Sequence[int]]) -> dict[str, float | list[int]]:
    """Wire the heads in place, and return how well equal pieces find each other.

    Args:
        encoder: a BERT with two segments.
        texts: some encoded passages, for the statistics.
    """
    generator = torch.Generator().manual_seed(0)
    attention, dense = _first_layer(encoder)
    size = attention.attention_head_size
    with torch.no_grad():
        first, second = _states(encoder, texts, segment=0), _states(encoder, texts, segment=1)
        both = torch.cat([first, second])
        middle = both.mean(0)
        teller = _teller(first, second)  # (width,), bias: -1 for the question, 1 for the passage
        # Whitened: what all pieces share says nothing about one.
        values, directions = torch.linalg.eigh(torch.cov(both.T))
        rank = min(_RANK, len(values) // 2)
        leading = directions[:, -rank:] / values[-rank:].sqrt()  # (width, rank)
        # The very last direction is the one that the norm before it leaves empty and the one behind it would take out.
        quiet = directions[:, 1]
        loudness = _LOUDNESS * first.norm(dim=1).mean()
        chosen = _quietest_heads(attention, dense, first)[:_HEADS]
        for head in chosen:
            rows = slice(head * size, (head + 1) * size)
            mixing = torch.linalg.qr(torch.randn(rank, size, generator=generator))[0] * math.sqrt(rank / size)
            projection = (leading @ mixing).T * math.sqrt(_SHARPNESS * math.sqrt(size)) * math.sqrt(size / rank)
            for linear in (attention.query, attention.key):
                linear.weight[rows] = projection
                linear.bias[rows] = -projection @ middle
            attention.value.weight[rows], attention.value.bias[rows] = 0, 0
            attention.value.weight[head * size], attention.value.bias[head * size] = teller
            dense.weight[:, rows] = 0
            dense.weight[:, head * size] = quiet * loudness / _HEADS
    return _report(encoder, texts, chosen)


def _first_layer(encoder: BertModel) -> tuple[BertSelfAttention, nn.Linear]:
    """Return the first layer's attention, and the linear layer behind it."""
    layer = encoder.encoder.layer[0]
    assert isinstance(layer, BertLayer)  # noqa: S101 - what a BERT is made of
    assert isinstance(layer.attention.self, BertSelfAttention)  # noqa: S101
    return layer.attention.self, layer.attention.output.dense


def _states(encoder: BertModel, texts: Sequence[Sequence[int]], segment: int) -> torch.Tensor:
    """Return what the first layer sees of the texts as one segment: (tokens, width)."""
    rows = [encoder.embeddings(torch.tensor([ids]), torch.full((1, len(ids)), segment))[0] for ids in texts]
    return torch.cat(rows)


def _teller(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the linear function that is nearest to -1 for states of the question and 1 for states of the passage."""
    states = torch.cat([first, second])
    wanted = torch.cat([-torch.ones(len(first)), torch.ones(len(second))])
    middle = states.mean(0)
    centred = states - middle
    gram = centred.T @ centred + 1e-3 * len(states) * torch.eye(states.shape[1]) * centred.var(0).mean()
    weights = torch.linalg.solve(gram, centred.T @ wanted)
    return weights, -weights @ middle


def _quietest_heads(attention: BertSelfAttention, dense: nn.Linear, states: torch.Tensor) -> list[int]:
    """Return the heads by how little they add to a state."""
    size = attention.attention_head_size
    values = attention.value(states)
    added = [
        (values[:, rows] @ dense.weight[:, rows].T).norm(dim=1).mean().item()
        for rows in (slice(head * size, (head + 1) * size) for head in range(attention.num_attention_heads))
    ]
    return sorted(range(len(added)), key=added.__getitem__)


def _report(encoder: BertModel, texts: Sequence[Sequence[int]], heads: Sequence[int]) -> dict[str, float | list[int]]:
    """Return the attention that goes to equal pieces of the other segment, where there are some."""
    attention, _ = _first_layer(encoder)
    size = attention.attention_head_size
    shares = []
    with torch.no_grad():
        for ids in texts[:50]:
            half = len(ids) // 8
            segments = torch.tensor([[0] * half + [1] * (len(ids) - half)])
            states = encoder.embeddings(torch.tensor([ids]), segments)[0]
            pieces = torch.tensor(ids)
            equal = (pieces[:half, None] == pieces[None]).float()
            repeated = (pieces[:half, None] == pieces[None, half:]).any(1)
            for head in heads:
                rows = slice(head * size, (head + 1) * size)
                query, key = attention.query(states)[:half, rows], attention.key(states)[:, rows]
                weights = (query @ key.T / math.sqrt(size)).softmax(-1)
                shares.append((weights * equal).sum(1)[repeated])
    found = torch.cat(shares)
    return {"attention_to_equal_pieces": round(found.mean().item(), 3), "heads": list(heads)}
