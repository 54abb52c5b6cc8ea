"""Sequences of any length side by side in one row, so that nothing is computed for padding.

The model is the one that `transformers` loaded and will save; only how it is run differs. Its layers see one row of all
tokens, each sequence with its own positions, packed as serving packs them; attention looks within a sequence (`attention.py`);
and a head, the same as in serving, reads the states of the first tokens or of all.

Dropout on a CPU is drawn sequence by sequence from the seed, the step, the record, the passage and the module's index:
neither what is computed together with a record nor the number of workers changes a record's mask. A GPU draws from its own
generator, whose seed is the step's and the worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from ko_reranker.container import JobError
from ko_reranker.engine.attention import FirstTokenAttention
from ko_reranker.engine.dense import OneDnnLinear
from ko_reranker.engine.encoders import ENCODERS
from ko_reranker.engine.heads import Reads, logit_head
from ko_reranker.engine.items import Item
from ko_reranker.engine.packing import PackedBatch, pack
from ko_reranker.engine.positions import first_position, padding_index
from ko_reranker.rankers.classifiers import Loaded, load_base, load_base_model
from ko_reranker.rankers.folders import ModelFolder, inspect_folder
from training_job.loop.attention import Packed, Stream, draw_keep_mask, packed_attention
from training_job.loop.groups import Group

# What a model is loaded with, as its `attn_implementation`.
PACKED_ATTENTION = "packed"

AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def load_trainable(folder: Path, name: str) -> Loaded:
    """Load a sequence classifier with one label and its tokenizer, in fp32, for :class:`PackedClassifier`.

    Args:
        folder: where it lies.
        name: what to call it in sentences.

    Raises:
        RankerError: it cannot be trained from.
        JobError: it is of an architecture that cannot be packed.
    """
    source = inspect_folder(folder, name, body=True)
    check_architecture(source)
    return load_base(source, attn_implementation=PACKED_ATTENTION)


def load_classifier(folder: Path) -> PreTrainedModel:
    """Load the model of :func:`load_trainable` alone, from a folder that may be without a tokenizer."""
    source = inspect_folder(folder, str(folder), body=True, tokenizer=False)
    check_architecture(source)
    return load_base_model(source, attn_implementation=PACKED_ATTENTION)


def check_architecture(source: ModelFolder) -> None:
    """Raise JobError where a model is of an architecture that cannot be packed."""
    if source.config["model_type"] not in ENCODERS:
        raise JobError(f"base_model is a {source.config['model_type']}: what can be trained is {', '.join(sorted(ENCODERS))}.")


def compute_twice(model: PreTrainedModel) -> None:
    """Let a model compute its layers again in the backward pass instead of keeping what they gave."""
    # transformers 5.23 has the one and deprecates the other, 5.17 has the other alone.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


class PackedEncoder:
    """A transformer, run without padding.

    Dropout and linear layers are replaced in the model, with the same parameters under the same names.

    Args:
        model: with attention of :func:`packed_attention`, on its device; with a head or without.
        seed: of dropout.
        reads: which states are wanted.

    Attributes:
        batch: the sequences being computed, for the attention and dropout inside the model.
        streams: the numbers that each sequence's dropout is drawn from.
    """

    batch: PackedBatch
    streams: Sequence[Stream]

    def __init__(self, model: PreTrainedModel, seed: int, *, reads: Reads) -> None:
        # PyTorch's types say of a module's attributes only that they are tensors or modules.
        self.body: Any = model.base_model
        self._seed, self._reads = seed, reads
        embeddings: Any = model.get_input_embeddings()
        self._words: torch.Tensor = embeddings.weight  # (vocabulary, hidden)
        self._first_position, self._padding_id = first_position(model), padding_index(model)
        replace_modules(model, self)
        for index, module in enumerate(model.modules()):
            if hasattr(module, "is_causal"):  # attention, which asks what is being computed
                attention: Any = module
                attention.packed, attention.index = self, index
        layers = _layers(model)
        self._takes_firsts = reads == "first"
        if self._takes_firsts and hasattr(layers[-1], "attention"):  # BERT and its kin
            layers[-1] = _FirstTokenLayer(layers[-1])
            self._takes_firsts = False

    def __call__(self, items: Sequence[Item], streams: Sequence[Stream]) -> torch.Tensor:
        """Return the states of the tokens that are read, (sequences, hidden) or (tokens, hidden).

        Args:
            items: what to run together.
            streams: of each item, the numbers that its dropout is drawn from; the seed is put before them.
        """
        packed = pack(items, first_position=self._first_position, padding_id=self._padding_id)
        self.batch, self.streams = packed.to(self._words.device), [(self._seed, *stream) for stream in streams]
        types = {} if self.batch.types is None else {"token_type_ids": self.batch.types[None]}
        embedded, positions = look_up(self._words, packed.ids.long()), self.batch.positions.long()
        states: torch.Tensor = self.body(inputs_embeds=embedded[None], position_ids=positions[None], **types).last_hidden_state
        states = states.flatten(0, 1)
        return states[self.batch.firsts] if self._takes_firsts else states


def replace_modules(model: nn.Module, packed: Packed) -> None:
    """Put dropout that is a sequence's own, and oneDNN's products, in the place of PyTorch's, under the same names.

    Args:
        model: of `transformers`.
        packed: knows what is being computed.
    """
    for index, (name, module) in enumerate(list(model.named_modules())):
        if type(module) is nn.Dropout:
            model.set_submodule(name, RecordDropout(module.p, packed, index).train(module.training))
        elif type(module) is nn.Linear and torch.backends.mkldnn.is_available():
            model.set_submodule(name, OneDnnLinear(module))


def look_up(words: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Look tokens up, (tokens, hidden), so that the gradient touches their rows and not the whole vocabulary's.

    Args:
        words: (vocabulary, hidden); a parameter.
        tokens: int64, (tokens,), on any device.
    """
    distinct, where = tokens.unique(return_inverse=True)
    distinct, where = distinct.to(words.device), where.to(words.device)
    rows = words.detach()[distinct]
    if torch.is_grad_enabled() and words.requires_grad:

        def hand_on(rows: torch.Tensor) -> None:
            if words.grad is None:
                words.grad = torch.zeros_like(words)
            assert rows.grad is not None  # noqa: S101 - the hook runs once it is there
            words.grad.index_add_(0, distinct, rows.grad)
            rows.grad = None

        rows.requires_grad_().register_post_accumulate_grad_hook(hand_on)
    return F.embedding(where, rows)


class PackedClassifier:
    """A sequence classifier, run without padding.

    Args:
        model: from :func:`load_classifier`, on its device.
        seed: of dropout.
    """

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        self.model = model
        self.encoder = PackedEncoder(model, seed, reads=logit_head(model).reads)
        self.head = logit_head(model)  # of the modules that are there now

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the logits of the groups' pairs, (pairs,), group after group.

        Args:
            groups: what to run together.
            step: the optimiser step, which dropout depends on.
        """
        pairs = [pair for group in groups for pair in group.pairs]
        streams = [(step, group.record, passage) for group in groups for passage in range(len(group.pairs))]
        states = self.encoder(pairs, streams)
        return self.head(states, self.encoder.batch)


class RecordDropout(nn.Dropout):
    """Dropout whose mask is a sequence's own.

    Args:
        p: the share to drop.
        packed: knows what is being computed.
        index: of the module, which tells its masks from those of any other.
    """

    def __init__(self, p: float, packed: Packed, index: int) -> None:
        super().__init__(p)
        self.packed, self.index = packed, index

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return states
        if states.is_cuda:
            return F.dropout(states, self.p)
        rows = states.reshape(-1, states.shape[-1])  # (tokens or sequences, channels)
        batch = self.packed.batch
        lengths = batch.lengths if len(rows) == batch.tokens else [1] * batch.sequences
        mask = torch.empty(rows.shape)
        for stream, part in zip(self.packed.streams, mask.split(lengths), strict=True):
            draw_keep_mask(stream, self.index, self.p, part)
        return states * mask.to(states.dtype).view_as(states)


class _FirstTokenLayer(nn.Module):
    """The last layer of BERT or its kin for the first tokens alone: nobody reads the others.

    Args:
        layer: whose parts it takes over, under the same names.
    """

    attention: Any
    intermediate: Any
    output: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention, self.intermediate, self.output = layer.attention, layer.intermediate, layer.output
        self.train(layer.training)

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Return (sequences, 1, hidden) of (1, tokens, hidden)."""
        module = self.attention.self
        packed: Packed = module.packed
        p = module.dropout.p if self.training else 0.0

        def draw(sequence: int, shape: torch.Size) -> torch.Tensor:
            return draw_keep_mask(packed.streams[sequence], module.index, p, torch.empty(shape))

        attend = FirstTokenAttention(module.query, module.key, module.value, module.num_attention_heads)
        attended = attend(hidden[0], packed.batch, dropout=p, draw=draw if p else None)
        attended = self.attention.output(attended, hidden[0, packed.batch.firsts])
        states: torch.Tensor = self.output(self.intermediate(attended), attended)
        return states.unsqueeze(1)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    base: Any = model.base_model
    layers: nn.ModuleList = base.encoder.layer if hasattr(base, "encoder") else base.layers
    return layers
