"""Decoders in training, without padding: the engine's, over layers that have a gradient.

What a group's passages begin with is computed once, as it is in serving, and its gradient is that of all of them. Dropout on a
CPU is drawn as that of encoders is (`packed.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ko_reranker.engine.decoders import Decoder, pack_behind_prefixes
from ko_reranker.engine.items import Item
from ko_reranker.engine.packing import PackedBatch, pack
from training_job.loop.attention import Packed, Stream
from training_job.loop.groups import Group
from training_job.loop.lora import adapted, is_adapted
from training_job.loop.packed import look_up, replace_modules


class PackedDecoder:
    """A decoder, run without padding, with a gradient.

    Dropout and linear layers are replaced in the model, with the same parameters under the same names.

    Args:
        model: on its device, with adapters or without.
        seed: of dropout.
        twice: whether layers are computed again in the backward pass instead of keeping what they gave.

    Attributes:
        decoder: the engine's; another one may take its place, such as one that is served.
        batch: the sequences being computed, for dropout.
        streams: the numbers that each sequence's dropout is drawn from.
    """

    batch: PackedBatch
    streams: Sequence[Stream]

    def __init__(self, model: PreTrainedModel, seed: int, *, twice: bool) -> None:
        self._seed = seed
        replace_modules(model, self)
        self.decoder = Decoder(model, _join)
        words: Any = model.get_input_embeddings()
        if words.weight.requires_grad:
            scale = getattr(words, "embed_scale", 1.0)  # Gemma's
            self.decoder.words = lambda ids: look_up(words.weight, ids.long()) * scale
        if twice:
            layers: list[Any] = [_Twice(layer, self) for layer in self.decoder.layers]
            self.decoder.layers = layers

    def __call__(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the states of the last token of each pair, (pairs, hidden), group after group.

        Args:
            groups: what to run together.
            step: the optimiser step, which dropout depends on.
        """
        decoder = self.decoder
        shared = [(group.record, group.pairs[0].prefix) for group in groups if group.pairs[0].prefix is not None]
        behind = {}
        if shared:
            self.batch = pack([Item(prefix.ids) for _, prefix in shared]).to(decoder.device)
            self.streams = [(self._seed, step, record, 0) for record, _ in shared]
            found = decoder.states_of_prefixes(self.batch, [None] * len(shared))
            behind = {id(prefix): states for (_, prefix), states in zip(shared, found, strict=True)}
        pairs = [pair for group in groups for pair in group.pairs]
        self.batch = pack_behind_prefixes(pairs).to(decoder.device)
        self.streams = [
            (self._seed, step, group.record, 1 + passage) for group in groups for passage in range(len(group.pairs))
        ]
        return decoder(self.batch, [behind.get(id(pair.prefix)) for pair in pairs], [1] * len(pairs))


def _join(*linears: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return linear layers of the same input as one that has a gradient: their weights as they are now, one by one."""

    def apply(rows: torch.Tensor) -> torch.Tensor:
        parts = [adapted(linear, rows) if is_adapted(linear) else linear(rows) for linear in linears]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    return apply


class _Twice:
    """A layer that is computed again in the backward pass, with the dropout of the first time.

    Args:
        layer: of a decoder.
        packed: knows what is being computed, and by then something else is.
    """

    def __init__(self, layer: Any, packed: Packed) -> None:
        self._layer, self._packed = layer, packed

    def __call__(self, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._layer(*inputs)
        held = self._packed.batch, self._packed.streams

        def compute(*inputs: Any) -> Any:
            self._packed.batch, self._packed.streams = held
            return self._layer(*inputs)

        return checkpoint(compute, *inputs, use_reentrant=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)
