"""Sequence classifiers of `transformers`, computed without padding.

An encoder takes over the weights of a loaded model and computes the same logits from packed sequences: the query, key and
value of a layer are one product, attention stays within each sequence, and the last layer is computed for the first token
of each sequence only, the one that the classifier reads. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ko_reranker.processor import multiplies_bf16

from .attention import attend, attend_from_first, attend_to_states
from .dense import Dense, make_dense
from .packing import PackedBatch


class Encoder(Protocol):
    """From packed sequences to their logits.

    Attributes:
        device: where it computes.
        first_position: what `pack` needs to know.
        padding_id: what `pack` needs to know.
    """

    device: torch.device
    first_position: int
    padding_id: int | None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Return float32 logits, (sequences,)."""
        ...


def make_encoder(model: PreTrainedModel, *, int8: bool = False) -> Encoder | None:
    """Return the padding-free encoder of a model with one label, or None for an architecture that has none.

    Args:
        model: a loaded sequence classifier, on its device, in its floating type.
        int8: multiply in 8-bit integers; only on a CPU.
    """
    kind = model.config.model_type
    if kind in ("bert", "roberta", "xlm-roberta", "camembert"):
        return BertEncoder(model, int8=int8)
    if kind == "modernbert":
        return ModernBertEncoder(model, int8=int8)
    return None


class BertEncoder:
    """BERT, RoBERTa, XLM-R and CamemBERT: learnt positions, the norm after each half of a layer, a tanh classifier."""

    def __init__(self, model: PreTrainedModel, *, int8: bool = False) -> None:
        config = model.config
        body = getattr(model, model.base_model_prefix)
        embeddings = body.embeddings
        self.words = embeddings.word_embeddings.weight
        self.positions = embeddings.position_embeddings.weight
        self.types = embeddings.token_type_embeddings.weight
        # A sequence whose tokens are all of one type adds its embedding once and for all.
        self.positions_of_first_type = self.positions + self.types[0]
        self.norm = embeddings.LayerNorm
        # RoBERTa numbers places from behind the padding's, BERT from 0.
        self.padding_id = embeddings.position_embeddings.padding_idx
        self.first_position = 0 if self.padding_id is None else self.padding_id + 1
        self.layers = [
            _BertLayer(layer, config, int8=int8, last=number == config.num_hidden_layers)
            for number, layer in enumerate(body.encoder.layer, start=1)
        ]
        if hasattr(model.classifier, "out_proj"):
            self.dense, self.out = model.classifier.dense, model.classifier.out_proj
        else:
            self.dense, self.out = body.pooler.dense, model.classifier
        self.device = self.words.device

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        states = F.embedding(batch.ids, self.words)
        if batch.types is None:
            states += F.embedding(batch.positions, self.positions_of_first_type)
        else:
            states += F.embedding(batch.types, self.types)
            states += F.embedding(batch.positions, self.positions)
        states = self.norm(states)
        for layer in self.layers:
            states = layer(states, batch)
        return self.out(torch.tanh(self.dense(states)))[:, 0].float()


class _BertLayer:
    def __init__(self, layer: nn.Module, config, *, int8: bool, last: bool) -> None:
        attention = layer.attention.self
        heads = config.num_attention_heads
        self.attend = _FirstTokenAttention(attention, heads) if last else _SelfAttention(attention, heads, int8=int8)
        self.last = last
        self.output = _dense(layer.attention.output.dense, int8=int8)
        self.output_norm = layer.attention.output.LayerNorm
        self.activation = _activation(config.hidden_act)
        self.up = _dense(layer.intermediate.dense, int8=int8)
        self.down = _dense(layer.output.dense, int8=int8, after_gelu=config.hidden_act == "gelu")
        self.down_norm = layer.output.LayerNorm

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return (tokens, hidden) of (tokens, hidden); the last layer (sequences, hidden)."""
        attended = self.attend(states, batch)
        if self.last:
            states = states[batch.firsts]
        states = self.output_norm(self.output(attended).add_(states))
        return self.down_norm(self.down(self.activation(self.up(states))).add_(states))


class _SelfAttention:
    """Attention of every token, (tokens, hidden) to (tokens, hidden)."""

    def __init__(self, attention: nn.Module, heads: int, *, int8: bool) -> None:
        self.heads = heads
        # Beside 8-bit products, 16 bits are precise; a CPU that only emulates bf16 is slower at it.
        self.dtype = torch.bfloat16 if int8 and multiplies_bf16() else attention.query.weight.dtype
        inputs = [attention.query, attention.key, attention.value]
        self.inputs = make_dense(
            torch.cat([linear.weight for linear in inputs]), torch.cat([linear.bias for linear in inputs]), int8=int8
        )

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        inputs = self.inputs(states).view(len(states), 3, self.heads, -1).to(self.dtype)
        return attend(inputs[:, 0], inputs[:, 1], inputs[:, 2], batch).to(states.dtype)


class _FirstTokenAttention:
    """Attention of each sequence's first token, (tokens, hidden) to (sequences, hidden).

    A score is ``query · (K state + bias)``, which is ``(query K) · state`` and a number that softmax does not see; what is
    attended to is ``V (sum of weighted states) + bias``. So no token's key or value is needed: in this layer they would be
    the whole work. A GPU's attention takes no heads as wide as the states: there keys and values are computed.
    """

    def __init__(self, attention: nn.Module, heads: int) -> None:
        self.heads = heads
        self.query, self.key, self.value = attention.query, attention.key, attention.value

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        query = self._by_head(self.query(states[batch.firsts]))  # (sequences, heads, head size)
        if states.is_cuda:
            return attend_from_first(query, self._by_head(self.key(states)), self._by_head(self.value(states)), batch)
        key, value = (linear.weight.unflatten(0, query.shape[1:]) for linear in (self.key, self.value))
        looks = torch.einsum("shd,hdc->shc", query, key)
        seen = attend_to_states(looks, states, batch, scale=query.shape[2] ** -0.5)
        return torch.einsum("shc,hdc->shd", seen, value).flatten(1).add_(self.value.bias)

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(1, (self.heads, -1))


class ModernBertEncoder:
    """ModernBERT: rotary positions, the norm before each half of a layer, gated activations, most layers with a window."""

    first_position = 0
    padding_id = None

    def __init__(self, model: PreTrainedModel, *, int8: bool = False) -> None:
        config, body = model.config, model.model
        self.words, self.norm = body.embeddings.tok_embeddings.weight, body.embeddings.norm
        self.rotary, self.kinds = body.rotary_emb, sorted(set(config.layer_types))
        self.mean = config.classifier_pooling == "mean"
        only_first = config.num_hidden_layers if not self.mean else None
        self.layers = [
            _ModernBertLayer(layer, config, int8=int8, last=number == only_first)
            for number, layer in enumerate(body.layers, start=1)
        ]
        self.final_norm, self.head, self.out = body.final_norm, model.head, model.classifier
        self.device = self.words.device

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        states = self.norm(F.embedding(batch.ids, self.words))
        # Per kind of layer: cosines and sines, (tokens, head size).
        places = batch.positions[None]
        turns = {kind: tuple(part[0] for part in self.rotary(states, places, kind)) for kind in self.kinds}
        for layer in self.layers:
            states = layer(states, turns[layer.kind], batch)
        states = self.final_norm(states)
        if self.mean:
            lengths = batch.boundaries.diff()
            owners = torch.arange(batch.sequences, device=self.device).repeat_interleave(lengths, output_size=batch.tokens)
            sums = states.new_zeros(batch.sequences, states.shape[1]).index_add_(0, owners, states)
            states = sums / lengths[:, None]
        return self.out(self.head(states))[:, 0].float()


class _ModernBertLayer:
    def __init__(self, layer: nn.Module, config, *, int8: bool, last: bool) -> None:
        self.kind = layer.attention_type
        self.heads = config.num_attention_heads
        self.window = config.sliding_window if self.kind == "sliding_attention" else None
        # A window hides most of the sequence from the first token, too: such a last layer is computed whole.
        self.last = last and self.window is None
        self.reads_first = last
        self.norm, self.mlp_norm = layer.attn_norm, layer.mlp_norm
        self.inputs, self.output = _dense(layer.attn.Wqkv, int8=int8), _dense(layer.attn.Wo, int8=int8)
        self.up, self.down = _dense(layer.mlp.Wi, int8=int8), _dense(layer.mlp.Wo, int8=int8)
        self.activation = layer.mlp.act

    def __call__(self, states: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], batch: PackedBatch) -> torch.Tensor:
        """Return (tokens, hidden) of (tokens, hidden); the last layer (sequences, hidden)."""
        inputs = self.inputs(self.norm(states)).view(len(states), 3, self.heads, states.shape[1] // self.heads)
        query, key = _rotate(inputs[:, 0], *turns), _rotate(inputs[:, 1], *turns)
        if self.last:
            attended = attend_from_first(query[batch.firsts], key, inputs[:, 2], batch)
        else:
            attended = attend(query, key, inputs[:, 2], batch, self.window)
            if self.reads_first:
                attended = attended[batch.firsts]
        if self.reads_first:
            states = states[batch.firsts]
        states = states + self.output(attended)
        value, gate = self.up(self.mlp_norm(states)).chunk(2, dim=-1)
        return states + self.down(self.activation(value) * gate)


def _rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn (tokens, heads, head size) by the angles of each token's place, in float32 as the model does."""
    first, second = states.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (states.float() * cosines[:, None] + turned * sines[:, None]).to(states.dtype)


def _activation(name: str | Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    if name == "gelu":
        return torch.ops.aten.gelu_  # in place: to fetch fresh memory for its output takes as long as GELU itself
    return ACT2FN[name] if isinstance(name, str) else name


def _dense(linear: nn.Linear, *, int8: bool, after_gelu: bool = False) -> Dense:
    return make_dense(linear.weight, linear.bias, int8=int8, after_gelu=after_gelu)
