"""Transformers of `transformers`, computed without padding.

An encoder takes over the weights of a loaded model and computes the same states from packed sequences: the query, key and
value of a layer are one product, attention stays within each sequence, and where a head reads the first token of each sequence
only, the last layer is computed for that alone. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from ko_reranker.processor import multiplies_bf16

from .attention import FirstTokenAttention, attend, attend_from_first
from .dense import Dense, make_dense
from .heads import Reads
from .packing import PackedBatch
from .positions import first_position, padding_index, rotate

# A module of `transformers`, each architecture's its own: PyTorch's types say of a module's attributes that they are tensors or
# modules, and no more.
_Layer = Any
# From the states of all tokens to what those that are read attend to.
_Attention = Callable[[torch.Tensor, PackedBatch], torch.Tensor]
# Of states, (tokens, hidden), to the same shape: a norm, an activation.
_OfStates = Callable[[torch.Tensor], torch.Tensor]


class Encoder(Protocol):
    """From packed sequences to the states that a head reads.

    Attributes:
        device: where it computes.
        dtype: of its states.
        head_size: channels of an attention head.
        windowed: whether in some layers a token sees only those near it.
        first_position: what `pack` needs to know.
        padding_id: what `pack` needs to know.
    """

    device: torch.device
    dtype: torch.dtype
    head_size: int
    windowed: bool
    first_position: int
    padding_id: int | None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Return the states of the tokens that are read, (sequences, hidden) or (tokens, hidden)."""
        ...


class BertEncoder:
    """BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA: learnt positions, the norm after each half of a layer."""

    def __init__(self, model: PreTrainedModel, *, reads: Reads, int8: bool = False) -> None:
        config: PretrainedConfig = model.config
        body: _Layer = model.base_model
        embeddings = body.embeddings
        self.words: torch.Tensor = embeddings.word_embeddings.weight
        self.positions = embeddings.position_embeddings.weight
        self.types = embeddings.token_type_embeddings.weight
        # A sequence whose tokens are all of one type adds its embedding once and for all.
        self.positions_of_first_type = self.positions + self.types[0]
        self.norm = embeddings.LayerNorm
        # ELECTRA's embeddings may be narrower than its layers.
        projection = getattr(body, "embeddings_project", None)
        self.project = None if projection is None else _dense(projection, int8=int8)
        self.padding_id, self.first_position = padding_index(model), first_position(model)
        only_first = config.num_hidden_layers if reads == "first" else None
        self.layers = [
            _BertLayer(layer, config, int8=int8, last=number == only_first)
            for number, layer in enumerate(body.encoder.layer, start=1)
        ]
        self.device, self.dtype = self.words.device, self.words.dtype
        self.head_size, self.windowed = config.hidden_size // config.num_attention_heads, False

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        states = F.embedding(batch.ids, self.words)
        if batch.types is None:
            states += F.embedding(batch.positions, self.positions_of_first_type)
        else:
            states += F.embedding(batch.types, self.types)
            states += F.embedding(batch.positions, self.positions)
        states = self.norm(states)
        if self.project is not None:
            states = self.project(states)
        for layer in self.layers:
            states = layer(states, batch)
        return states


class _BertLayer:
    def __init__(self, layer: _Layer, config: PretrainedConfig, *, int8: bool, last: bool) -> None:
        attention = layer.attention.self
        heads = config.num_attention_heads
        self.attend: _Attention = (
            FirstTokenAttention(attention.query, attention.key, attention.value, heads)
            if last
            else _SelfAttention(attention, heads, int8=int8)
        )
        self.last = last
        self.output = _dense(layer.attention.output.dense, int8=int8)
        self.output_norm: _OfStates = layer.attention.output.LayerNorm
        gelu = config.hidden_act == "gelu"
        self.up = _dense(layer.intermediate.dense, int8=int8, gelu=gelu)
        self.activation: _OfStates | None = None if gelu else _activation(config.hidden_act)
        self.down = _dense(layer.output.dense, int8=int8, after_gelu=gelu)
        self.down_norm: _OfStates = layer.output.LayerNorm

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        """Return (tokens, hidden) of (tokens, hidden); the last layer (sequences, hidden)."""
        attended = self.attend(states, batch)
        if self.last:
            states = states[batch.firsts]
        states = self.output_norm(self.output(attended, states))
        inner = self.up(states)
        return self.down_norm(self.down(inner if self.activation is None else self.activation(inner), states))


class _SelfAttention:
    """Attention of every token, (tokens, hidden) to (tokens, hidden)."""

    def __init__(self, attention: _Layer, heads: int, *, int8: bool) -> None:
        self.heads = heads
        # Beside 8-bit products, 16 bits are precise. Where bf16 is the slower one, a model took a quarter longer with it here.
        self.dtype = torch.bfloat16 if int8 and multiplies_bf16() else attention.query.weight.dtype
        inputs = [attention.query, attention.key, attention.value]
        self.inputs = make_dense(
            torch.cat([linear.weight for linear in inputs]), torch.cat([linear.bias for linear in inputs]), int8=int8
        )

    def __call__(self, states: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        inputs = self.inputs(states).view(len(states), 3, self.heads, -1).to(self.dtype)
        return attend(inputs[:, 0], inputs[:, 1], inputs[:, 2], batch).to(states.dtype)


class ModernBertEncoder:
    """ModernBERT: rotary positions, the norm before each half of a layer, gated activations, most layers with a window."""

    first_position = 0
    padding_id: int | None = None

    def __init__(self, model: PreTrainedModel, *, reads: Reads, int8: bool = False) -> None:
        config: PretrainedConfig = model.config
        body: _Layer = model.base_model
        self.words, self.norm = body.embeddings.tok_embeddings.weight, body.embeddings.norm
        self.rotary, self.kinds = body.rotary_emb, sorted(set(config.layer_types))
        only_first = config.num_hidden_layers if reads == "first" else None
        self.layers = [
            _ModernBertLayer(layer, config, int8=int8, last=number == only_first)
            for number, layer in enumerate(body.layers, start=1)
        ]
        self.final_norm: _OfStates = body.final_norm
        self.device, self.dtype = self.words.device, self.words.dtype
        self.head_size = config.hidden_size // config.num_attention_heads
        self.windowed = "sliding_attention" in self.kinds

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        states = self.norm(F.embedding(batch.ids, self.words))
        # Per kind of layer: cos and sin, (tokens, head size).
        positions = batch.positions[None]
        rotary = {kind: tuple(part[0] for part in self.rotary(states, positions, kind)) for kind in self.kinds}
        for layer in self.layers:
            states = layer(states, rotary[layer.kind], batch)
        return self.final_norm(states)


class _ModernBertLayer:
    def __init__(self, layer: _Layer, config: PretrainedConfig, *, int8: bool, last: bool) -> None:
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

    def __call__(self, states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], batch: PackedBatch) -> torch.Tensor:
        """Return (tokens, hidden) of (tokens, hidden); the last layer (sequences, hidden)."""
        inputs = self.inputs(self.norm(states)).view(len(states), 3, self.heads, states.shape[1] // self.heads)
        query, key = rotate(inputs[:, 0], *rotary), rotate(inputs[:, 1], *rotary)
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


def _activation(name: str | _OfStates) -> _OfStates:
    return ACT2FN[name] if isinstance(name, str) else name


def _dense(linear: nn.Linear, *, int8: bool, **more: bool) -> Dense:
    return make_dense(linear.weight, linear.bias, int8=int8, **more)


# The encoder of each architecture that is computed without padding, by its model_type; those can be trained, too.
ENCODERS: dict[str, Callable[..., Encoder]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), BertEncoder),
    "modernbert": ModernBertEncoder,
}


def make_encoder(model: PreTrainedModel, *, reads: Reads, int8: bool = False) -> Encoder:
    """Return the padding-free encoder of a model.

    Args:
        model: of an architecture in `ENCODERS`, loaded, on its device, in its floating type; with a head or without.
        reads: which states are wanted, as the head says.
        int8: multiply in 8-bit integers; only on a CPU.
    """
    return ENCODERS[model.config.model_type](model, reads=reads, int8=int8)
