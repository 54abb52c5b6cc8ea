"""Decoders of `transformers`, computed without padding: what their last token says of each sequence.

A decoder takes over the weights of a loaded model and computes the same states from packed sequences: the query, key and value
of a layer are one product, and so are the two halves of its gated part; the last layer is computed for the last tokens alone,
and tokens that sequences share are computed once. All of it is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from .answers import DecoderHead
from .causal import Causal
from .dense import Dense, make_dense
from .items import Item, Results
from .packing import PackedBatch, pack
from .positions import rotate
from .prefixes import LayerStates

# The model types that are computed: their layers differ in norms, biases, windows, positions and caps, all of which are read
# from the model.
DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
# Ways to stretch positions by the length of the longest sequence at hand: a score would depend on what is computed beside it.
_DEPENDS_ON_LENGTH = ("dynamic", "longrope")
# cos and sin of every token's position, (tokens, head size) each.
_Rotary = tuple[torch.Tensor, torch.Tensor]
# From linear layers of the same input to one whose outputs follow each other.
Join = Callable[..., Callable[[torch.Tensor], torch.Tensor]]


def joined(*linears: nn.Linear) -> Dense:
    """Return linear layers of the same input as one product, without a gradient."""
    weights: list[torch.Tensor] = [linear.weight for linear in linears]
    biases: list[torch.Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return make_dense(torch.cat(weights), torch.cat(biases) if biases else None)


def check_decoder(config: Any) -> None:
    """See that a model can be computed here, by its configuration.

    Raises:
        ValueError: it cannot; the message says why.
    """
    if config.model_type not in DECODERS:
        raise ValueError(f"is a {config.model_type}, and the decoders that are computed here are {', '.join(DECODERS)}")
    if getattr(config, "use_bidirectional_attention", False):
        raise ValueError("attends in both directions (use_bidirectional_attention), which is no decoder")
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {str(rope.get("rope_type")) for rope in (ropes, *ropes.values()) if isinstance(rope, dict)}
    if found := sorted(kinds.intersection(_DEPENDS_ON_LENGTH)):
        raise ValueError(f"has positions of type {found[0]}, which depend on the longest text at hand")


class Decoder:
    """Llama, Qwen2, Qwen3, and Gemma 1 to 3 for text. Its states have a gradient where the joined layers have one.

    Args:
        model: of a type in `DECODERS`, loaded, on its device, in its floating type; with a head or without.
        join: makes one layer of those that read the same.

    Attributes:
        words: looks tokens up, (tokens, hidden) of (tokens,).
        layers: in order.

    Raises:
        ValueError: it cannot be computed here.
    """

    def __init__(self, model: PreTrainedModel, join: Join = joined) -> None:
        config = model.config
        # The architecture's own module, of whose attributes PyTorch's types say only that they are tensors or modules.
        body: Any = model.base_model
        check_decoder(config)
        self.words: Callable[[torch.Tensor], torch.Tensor] = body.embed_tokens
        self.rotary = body.rotary_emb
        # Gemma 3 rotates the tokens of its windowed layers by other frequencies.
        self.kinds: list[str | None] = sorted(set(config.layer_types)) if config.model_type == "gemma3_text" else [None]
        self.layers = [
            _Layer(
                layer,
                config,
                join,
                kind=None if self.kinds == [None] else config.layer_types[number],
                last=number == config.num_hidden_layers - 1,
            )
            for number, layer in enumerate(body.layers[: config.num_hidden_layers])
        ]
        self.norm = _Norm(body.norm, config)
        weight: torch.Tensor = body.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype

    def __call__(
        self, batch: PackedBatch, prefixes: Sequence[Sequence[LayerStates] | None], tails: Sequence[int]
    ) -> torch.Tensor:
        """Return the states of each sequence's last tokens, (tokens that are read, hidden).

        Args:
            batch: no sequence is empty; positions count from 0, or from behind the prefix.
            prefixes: of each sequence, what `prefix_states` gave of its prefix; None for no prefix.
            tails: of each sequence, how many of its last tokens are read, at least one.
        """
        states, cos_sin = self._start(batch)
        for number, layer in enumerate(self.layers):
            behind = [None if prefix is None else prefix[number] for prefix in prefixes]
            # Of the layer's keys and values nothing is kept while the next one is computed.
            states = layer(states, cos_sin[layer.kind], batch, behind, tails)[0]
        return self.norm(states)

    def prefix_states(self, ids: np.ndarray, before: Sequence[LayerStates] | None = None) -> list[LayerStates]:
        """Return keys and values of each layer, (tokens, key heads, head size) each, of what sequences begin with.

        Args:
            ids: int32, (tokens,).
            before: what this gave of the tokens that come before them, which are among those that are returned; None for none.
        """
        batch = pack([Item(ids)], first_position=0 if before is None else len(before[0][0])).to(self.device)
        (found,) = self.states_of_prefixes(batch, [before])
        if before is None:
            return found
        return [
            (torch.cat([earlier[0], key]), torch.cat([earlier[1], value]))
            for earlier, (key, value) in zip(before, found, strict=True)
        ]

    def states_of_prefixes(
        self, batch: PackedBatch, prefixes: Sequence[Sequence[LayerStates] | None]
    ) -> list[list[LayerStates]]:
        """Return of each sequence keys and values of each layer, as `prefix_states` does of one.

        Args:
            batch: no sequence is empty; positions count from 0, or from behind the prefix.
            prefixes: of each sequence, what comes before it, which is not returned again; None for nothing.
        """
        states, cos_sin = self._start(batch)
        kept = []
        for number, layer in enumerate(self.layers[:-1]):
            behind = [None if prefix is None else prefix[number] for prefix in prefixes]
            states, own = layer(states, cos_sin[layer.kind], batch, behind, [])
            kept.append(own)
        last = self.layers[-1]
        kept.append(last.key_and_value(last.input_norm(states), cos_sin[last.kind]))
        # Apart from the products that they are parts of, which would be kept with them.
        return [
            [(key[start:end].clone(), value[start:end].clone()) for key, value in kept]
            for start, end in itertools.pairwise(batch.offsets)
        ]

    def _start(self, batch: PackedBatch) -> tuple[torch.Tensor, dict[str | None, _Rotary]]:
        positions = batch.positions[None]
        # In fp32, whatever the states are in: a late token's position in bf16 is another token's.
        like = torch.empty(0, device=self.device)
        cos_sin = {
            kind: tuple(part[0] for part in self.rotary(like, positions, *(() if kind is None else (kind,))))
            for kind in self.kinds
        }
        return self.words(batch.ids), cos_sin


class _Layer:
    def __init__(self, layer: Any, config: Any, join: Join, *, kind: str | None, last: bool) -> None:
        attention, gated = layer.self_attn, layer.mlp
        self.kind, self.last = kind, last
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        cap = config.attn_logit_softcapping if config.model_type == "gemma2" else None
        self.attend = Causal(attention.scaling, getattr(attention, "sliding_window", None), cap)
        self.query_size = attention.q_proj.weight.shape[0]
        if last:
            self.query, self.rest = join(attention.q_proj), join(attention.k_proj, attention.v_proj)
        else:
            self.inputs = join(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = join(attention.o_proj)
        self.query_norm, self.key_norm = (
            _Norm(getattr(attention, name), config) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")
        )
        self.attended_norm: _Norm | None = None
        self.down_norm: _Norm | None = None
        self.activation = ACT2FN[getattr(config, "hidden_activation", None) or config.hidden_act]
        self.up, self.down = join(gated.gate_proj, gated.up_proj), join(gated.down_proj)
        self.input_norm = _Norm(layer.input_layernorm, config)
        # Of four norms the second comes behind the attention, of two before what follows it.
        second = _Norm(layer.post_attention_layernorm, config)
        if hasattr(layer, "pre_feedforward_layernorm"):
            self.attended_norm, self.up_norm = second, _Norm(layer.pre_feedforward_layernorm, config)
            self.down_norm = _Norm(layer.post_feedforward_layernorm, config)
        else:
            self.up_norm = second

    def __call__(
        self,
        states: torch.Tensor,
        cos_sin: _Rotary,
        batch: PackedBatch,
        prefixes: Sequence[LayerStates | None],
        tails: Sequence[int],
    ) -> tuple[torch.Tensor, LayerStates]:
        """Return (tokens, hidden) of (tokens, hidden), of the last layer the tails' alone; and all tokens' key and value."""
        rows = self.input_norm(states)
        if self.last:
            key, value = self.key_and_value(rows, cos_sin)
            indexes = [np.arange(end - tail, end) for end, tail in zip(batch.offsets[1:], tails, strict=True)]
            read = torch.from_numpy(np.concatenate(indexes)).to(states.device, non_blocking=True)
            states, cos_sin = states[read], (cos_sin[0][read], cos_sin[1][read])
            query = self.query(rows[read])
        else:
            inputs = self.inputs(rows)
            query = inputs[:, : self.query_size]
            key, value = self._split(inputs[:, self.query_size :], cos_sin)
        query = _rotated(query.unflatten(1, (self.heads, -1)), self.query_norm, cos_sin)
        attended = self.output(self.attend(query, key, value, batch, prefixes, tails if self.last else None))
        states = states + (attended if self.attended_norm is None else self.attended_norm(attended))
        gate, up = self.up(self.up_norm(states)).chunk(2, dim=-1)
        result = self.down(self.activation(gate) * up)
        return states + (result if self.down_norm is None else self.down_norm(result)), (key, value)

    def key_and_value(self, rows: torch.Tensor, cos_sin: _Rotary) -> LayerStates:
        """Return the last layer's, (tokens, key heads, head size) each, of normalised states, (tokens, hidden)."""
        return self._split(self.rest(rows), cos_sin)

    def _split(self, rows: torch.Tensor, cos_sin: _Rotary) -> LayerStates:
        key, value = rows.unflatten(1, (2, self.key_heads, -1)).unbind(1)
        return _rotated(key, self.key_norm, cos_sin), value


def _rotated(rows: torch.Tensor, norm: _Norm | None, cos_sin: _Rotary) -> torch.Tensor:
    """Normalise (tokens, heads, head size), if there is a norm, and rotate them by their positions, in fp32."""
    return rotate(rows if norm is None else norm(rows), *cos_sin)


class _Norm:
    """RMSNorm, in fp32; Gemma's weights are counted from 1."""

    def __init__(self, norm: Any, config: Any) -> None:
        self.weight: torch.Tensor = norm.weight
        self.counts_from_one = config.model_type.startswith("gemma")
        self.epsilon: float = config.rms_norm_eps

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        # Of the weight as it is now: it may be in training.
        weight = self.weight.float() + 1.0 if self.counts_from_one else self.weight.float()
        return F.rms_norm(rows.float(), weight.shape, weight, self.epsilon).to(rows.dtype)


def pack_behind_prefixes(items: Sequence[Item]) -> PackedBatch:
    """Lay sequences end to end without their prefixes, behind which their positions count."""
    batch = pack([Item(item.ids) for item in items])
    starts = torch.tensor([item.tokens - len(item.ids) for item in items], dtype=torch.int32)
    return replace(batch, positions=batch.positions + starts.repeat_interleave(batch.boundaries.diff()))


class DecoderForward:
    """Computes what is there and nothing else; prefixes once.

    Args:
        decoder: the padding-free model.
        head: what is wanted of its states.
    """

    def __init__(self, decoder: Decoder, head: DecoderHead) -> None:
        self.decoder, self.head = decoder, head

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item]) -> tuple[Results, int]:
        """Return the items' results, and how many tokens were computed, those of a prefix with the item that leads."""
        prefixes = [None if item.prefix is None else item.prefix.states(self.decoder.prefix_states) for item in items]
        batch = pack_behind_prefixes(items).to(self.decoder.device)
        states = self.decoder(batch, prefixes, [item.read for item in items])
        return self.head(states, items), sum(map(len, items))
