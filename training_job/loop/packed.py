"""Sequences of any length side by side in one row, so that nothing is computed for padding.

The model is the one that `transformers` loaded and will save; only how it is run differs. Its layers see one row of all
tokens, each sequence with its own positions; attention looks within a sequence (`attention.py`); and behind the last layer
each sequence is its first token, so that the model's own head sees what it sees of a padded batch.

Dropout on a CPU is drawn sequence by sequence from the seed, the step, the record, the passage and the place in the model:
neither what is computed together with a record nor the number of workers changes a record's mask. A GPU draws from its own
generator, whose seed is the step's and the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from ko_reranker.container import JobError
from ko_reranker.rankers.cross_encoder import first_position
from training_job.loop.attention import Row, draw_keep_mask, first_token_attention, packed_attention
from training_job.loop.groups import Group

# Those whose layers and heads were read: they do not mix sequences but in attention, and classify by the first token.
FAMILIES = ("bert", "camembert", "electra", "modernbert", "roberta", "xlm-roberta")
_ATTENTION = "packed"

AttentionInterface.register(_ATTENTION, packed_attention)


def load_classifier(folder: object) -> PreTrainedModel:
    """Load a sequence classifier with one label, in fp32, for :class:`PackedClassifier`.

    Raises:
        JobError: the model is of a family that cannot be packed.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in FAMILIES:
        raise JobError(f"base_model is a {config.model_type}: what can be trained is {', '.join(FAMILIES)}.")
    if getattr(config, "classifier_pooling", "cls") != "cls":
        raise JobError("base_model classifies by the mean of its tokens: what can be trained classifies by the first one.")
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, attn_implementation=_ATTENTION
    )


class PackedClassifier:
    """A sequence classifier, run without padding.

    Args:
        model: from :func:`load_classifier`, on its device.
        seed: of dropout.

    Attributes:
        row: the sequences being computed, for the attention and dropout inside the model.
    """

    row: Row

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.model = model
        self._seed = seed
        self._words = model.get_input_embeddings().weight  # (pieces, channels)
        self._first_position = first_position(model)
        layers = _layers(model)
        for place, module in enumerate(list(model.modules())):
            if type(module) is nn.Dropout:
                module.__class__ = RecordDropout
            elif type(module) is nn.Linear and torch.backends.mkldnn.is_available():
                module.__class__ = OneDnnLinear
            # Either asks what stands in the row; the place tells its masks from those of any other.
            module.packed, module.place = self, place
        last = layers[-1]
        if hasattr(last, "feed_forward_chunk"):  # BERT and its kin
            last.forward = lambda hidden, *_, **__: self._first_tokens(last, hidden)
        else:
            last.register_forward_hook(lambda _, __, hidden: hidden[0, self.row.firsts].unsqueeze(1))

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the logits of the groups' pairs, (pairs,), group after group.

        Args:
            groups: what to run together.
            step: the optimiser step, which dropout depends on.
        """
        pairs = [pair for group in groups for pair in group.pairs]
        lengths = [len(pair) for pair in pairs]
        device = self._words.device
        features = [pair.features for pair in pairs]
        columns = {name: torch.tensor(list(chain.from_iterable(part[name] for part in features))) for name in features[0]}
        bounds = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
        positions = torch.arange(int(bounds[-1])) - bounds[:-1].repeat_interleave(torch.tensor(lengths))
        streams = [(self._seed, step, group.record, place) for group in groups for place in range(len(group.pairs))]
        self.row = Row(lengths, bounds.int().to(device), streams)
        inputs = {name: column[None].to(device) for name, column in columns.items() if name != "input_ids"}
        output = self.model(
            inputs_embeds=self._embed(columns["input_ids"])[None],
            position_ids=(positions + self._first_position)[None].to(device),
            **inputs,
        )
        return output.logits[:, 0]

    def _embed(self, pieces: torch.Tensor) -> torch.Tensor:
        """Look the pieces up, (tokens, channels), so that the gradient touches their rows and not the whole vocabulary's."""
        distinct, where = pieces.unique(return_inverse=True)
        distinct, where = distinct.to(self._words.device), where.to(self._words.device)
        rows = self._words.detach()[distinct]
        if torch.is_grad_enabled() and self._words.requires_grad:

            def hand_on(rows: torch.Tensor) -> None:
                if self._words.grad is None:
                    self._words.grad = torch.zeros_like(self._words)
                self._words.grad.index_add_(0, distinct, rows.grad)
                rows.grad = None

            rows.requires_grad_().register_post_accumulate_grad_hook(hand_on)
        return F.embedding(where, rows)

    def _first_tokens(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Run the last layer for the first tokens alone: nobody reads the others. (1, tokens, …) to (sequences, 1, …)."""
        attention = layer.attention.self
        first = hidden[:, self.row.firsts]
        dropout = attention.dropout.p if attention.training else 0.0
        if hidden.is_cuda:
            query, key, value = (
                project(states).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
                for project, states in ((attention.query, first), (attention.key, hidden), (attention.value, hidden))
            )
            seen, _ = packed_attention(attention, query, key, value, None, dropout=dropout, scaling=attention.scaling)
        else:
            seen = first_token_attention(attention, first[0], hidden[0], dropout)
        return layer.feed_forward_chunk(layer.attention.output(seen.flatten(2), first)).transpose(0, 1)


class RecordDropout(nn.Dropout):
    """Dropout whose mask is a sequence's own; `PackedClassifier` turns a model's dropouts into it."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return states
        if states.is_cuda:
            return F.dropout(states, self.p)
        rows = states.reshape(-1, states.shape[-1])  # (tokens or sequences, channels)
        row: Row = self.packed.row
        lengths = row.lengths_of(len(rows))
        mask = torch.empty(rows.shape)
        for stream, part in zip(row.streams, mask.split(list(lengths)), strict=True):
            draw_keep_mask(stream, self.place, self.p, part)
        return states * mask.to(states.dtype).view_as(states)


class OneDnnLinear(nn.Linear):
    """A linear layer that in fp32 on a CPU goes through oneDNN; `PackedClassifier` turns a model's layers into it.

    PyTorch multiplies fp32 by MKL there, which takes some 15 % longer on an AMD processor; the other types oneDNN has anyway.
    """

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        plain = rows.is_cuda or rows.dtype != torch.float32 or torch.is_autocast_enabled(rows.device.type)
        return super().forward(rows) if plain else _OneDnnProduct.apply(rows, self.weight, self.bias)


class _OneDnnProduct(torch.autograd.Function):
    """``rows @ weight.T + bias`` and its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        return _onednn_linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        return (
            _onednn_linear(gradient, weight.t(), None) if of_rows else None,
            _add_to_gradient(weight, flat.t(), rows.flatten(0, -2)) if of_weight else None,
            flat.new_ones(len(flat)) @ flat if of_bias else None,  # half the time of a sum
        )


def _add_to_gradient(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    """Add a product to a weight's gradient in place, or return the first one for autograd to keep. MKL is as fast here."""
    if weight.grad is None:
        return left @ right
    weight.grad.addmm_(left, right)
    return None


def _onednn_linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    base = model.base_model
    return base.encoder.layer if hasattr(base, "encoder") else base.layers
