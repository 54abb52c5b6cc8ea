"""How a model of `transformers` numbers the positions of its tokens, and rotates queries and keys by them."""

from __future__ import annotations

from typing import Protocol

import torch
from transformers import PretrainedConfig


class Positioned(Protocol):
    """What is read here of a model of `transformers`, or of one with modules behind it."""

    @property
    def config(self) -> PretrainedConfig: ...

    @property
    def base_model_prefix(self) -> str: ...


def position_limit(model: Positioned) -> int:
    """Return the longest input the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return 2**31 if positions is None else positions - first_position(model)


def first_position(model: Positioned) -> int:
    """Return the position of a sequence's first token: RoBERTa and its kin count from behind the padding index."""
    padding = padding_index(model)
    return 0 if padding is None else padding + 1


def padding_index(model: Positioned) -> int | None:
    """Return the token that takes no position of its own in such a model; None for one that numbers every token."""
    embeddings = getattr(getattr(model, model.base_model_prefix, model), "embeddings", None)
    return getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (tokens, heads, head size) by the angles of each token's position, in float32 as the model does."""
    first, second = states.float().chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return (states.float() * cos[:, None] + rotated * sin[:, None]).to(states.dtype)
