"""Heads: what is wanted of the states that an encoder gives. An encoder knows of them only which states are read."""

from __future__ import annotations

import copy
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .dense import make_dense
from .items import Results
from .packing import PackedBatch

# Of each sequence the first token's state, (sequences, hidden), or the states of all tokens, (tokens, hidden).
Reads = Literal["first", "all"]


class Head(Protocol):
    """From the states of a packed batch to a result for each of its sequences.

    Attributes:
        reads: whose states it reads.
    """

    reads: Reads

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return what is wanted of all sequences in one tensor, on the states' device; a graph can be recorded of it."""
        ...

    def results(self, output: torch.Tensor, batch: PackedBatch) -> Results:
        """Return each sequence's part, on the host.

        Args:
            output: what the call returned, of the batch or of one that was filled up behind it.
            batch: the sequences that are asked for.
        """
        ...


class LogitHead:
    """The classifier of a sequence: a logit, or with several labels one for each.

    Args:
        layers: from (sequences, hidden) to (sequences, labels).
        mean: read the mean of a sequence's states instead of its first token's.
    """

    def __init__(self, layers: nn.Module, *, mean: bool = False) -> None:
        # In fp32: a few rows cost nothing, and a logit of 8 in bf16 would be one of steps of 1/16.
        half = next(layers.parameters()).dtype != torch.float32
        self.layers = copy.deepcopy(layers).float() if half else layers
        self.reads: Reads = "all" if mean else "first"

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return float32 logits, (sequences,) of one label, else (sequences, labels)."""
        if self.reads == "all":
            states = _mean(states, batch)
        logits: torch.Tensor = self.layers(states.float())
        return logits.squeeze(1)

    def results(self, output: torch.Tensor, batch: PackedBatch) -> Results:
        """Return the logits of the batch's sequences."""
        return output[: batch.sequences].cpu().numpy()


class VectorHead:
    """A vector for every token: its state projected, and brought to length 1.

    Args:
        weight: (channels, hidden), in the floating type and on the device of the encoder's states.
        bias: (channels,), or None.
    """

    reads: Reads = "all"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.project = make_dense(weight, bias)

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return float32 vectors, (tokens, channels)."""
        return F.normalize(self.project(states).float(), dim=-1)

    def results(self, output: torch.Tensor, batch: PackedBatch) -> Results:
        """Return each sequence's vectors, (its tokens, channels)."""
        vectors = output[: batch.tokens].cpu().numpy()
        return [vectors[start:end] for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)]


def logit_head(model: PreTrainedModel) -> LogitHead:
    """Return the head of a sequence classifier of one of the architectures in `ENCODERS`.

    It is made of the model's own modules, dropout included, and so trains them; a copy of them if they are in half precision.
    """
    # Each architecture's own module, of whose attributes PyTorch's types say only that they are tensors or modules.
    whole: Any = model
    classifier = whole.classifier
    if hasattr(whole, "head"):  # ModernBERT
        return LogitHead(nn.Sequential(whole.head, whole.drop, classifier), mean=model.config.classifier_pooling == "mean")
    if hasattr(classifier, "out_proj"):  # RoBERTa and its kin; ELECTRA has an activation of its own
        activation = getattr(classifier, "activation", None) or nn.Tanh()
        layers = (classifier.dropout, classifier.dense, activation, classifier.dropout, classifier.out_proj)
        return LogitHead(nn.Sequential(*layers))
    return LogitHead(nn.Sequential(whole.base_model.pooler.dense, nn.Tanh(), whole.dropout, classifier))


def _mean(states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Return the mean of each sequence's states, float32, (sequences, hidden)."""
    lengths = batch.boundaries.diff()
    owners = torch.arange(batch.sequences, device=states.device).repeat_interleave(lengths, output_size=batch.tokens)
    # In fp32: a GPU adds up in the sum's type, and a sum of some hundred tokens in bf16 no longer notices another one.
    sums = states.new_zeros(batch.sequences, states.shape[1], dtype=torch.float32).index_add_(0, owners, states.float())
    return sums / lengths[:, None]
