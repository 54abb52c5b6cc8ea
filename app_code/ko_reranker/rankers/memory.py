"""The memory that a decoder takes while it is served, by its config.json alone. Pure arithmetic: no PyTorch, no weights.

It counts what the engine holds of PyTorch's own memory. To that come the interpreter with its libraries (about 1 GB), on a GPU
CUDA's context (about 0.5 GB), and what allocators keep in reserve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Those of `ko_reranker.engine.decoders.DECODERS`, which needs PyTorch.
_KINDS = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
BYTES_OF = {"fp32": 4, "bf16": 2, "fp16": 2}
# What the types whose configuration may leave it out take for the size of a head; of the others it is hidden size by heads.
_HEAD_SIZES = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
_FOUR_NORMS, _HEAD_NORMS = ("gemma2", "gemma3_text"), ("qwen3", "gemma3_text")


@dataclass(frozen=True, slots=True)
class DecoderMemory:
    """Bytes that a decoder takes.

    Attributes:
        weights: of the model as it is served; of a vocabulary's output rows the answers' alone, which are next to nothing.
        loading: while it is loaded, when most weights are there twice, as in the files and as they are computed with.
        beginnings: keys and values of what each request's documents begin with.
        batches: states of the micro-batches that are computed at the same time, and masks.
    """

    weights: int
    loading: int
    beginnings: int
    batches: int

    @property
    def serving(self) -> int:
        """Bytes once it is loaded, with all requests under way."""
        return self.weights + self.beginnings + self.batches

    @property
    def most(self) -> int:
        """Bytes that there have to be."""
        return max(self.loading, self.serving)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the sizes of a decoder's tensors follow from."""

    kind: str
    layers: int
    hidden: int
    gated: int
    vocabulary: int
    head_size: int
    queries: int
    keys: int
    tied: bool
    biases: tuple[bool, bool, bool]  # of queries, keys and values; of the attention's output; of the gated part

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Shape:
        kind = config.get("model_type") if isinstance(config, Mapping) else None
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise ValueError(f"the configuration is not one of a decoder: model_type is {kind!r}, and these are {known}")
        hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
        key_heads = heads if config.get("num_key_value_heads") is None else _count(config, "num_key_value_heads")
        own = _HEAD_SIZES.get(kind) or hidden // heads
        head_size = own if config.get("head_dim") is None else _count(config, "head_dim")
        attention_bias = bool(config.get("attention_bias"))
        return cls(
            kind=kind,
            layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            gated=_count(config, "intermediate_size"),
            vocabulary=_count(config, "vocab_size"),
            head_size=head_size,
            queries=heads * head_size,
            keys=key_heads * head_size,
            # Gemma's files leave it out: its words are the output's rows.
            tied=config.get("tie_word_embeddings", kind.startswith("gemma")),
            biases=(attention_bias or kind == "qwen2", attention_bias, bool(config.get("mlp_bias"))),
        )

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        inputs, outputs, gated = self.biases
        return (
            self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.gated)
            + self.hidden * (4 if self.kind in _FOUR_NORMS else 2)
            + (2 * self.head_size if self.kind in _HEAD_NORMS else 0)
            + (self.queries + 2 * self.keys if inputs else 0)
            + (self.hidden if outputs else 0)
            + (2 * self.gated + self.hidden if gated else 0)
        )

    def token(self, size: int) -> int:
        """Bytes that a token takes while a layer is computed, where that is most: as it is rotated, or in the gated part."""
        rotation = 8 * self.head_size * (2 if self.kind == "gemma3_text" else 1)
        normed = self.queries if self.kind in _HEAD_NORMS else 0
        # In fp32: the rotated half, two products and their sum, and where they were in 16 bits the queries themselves.
        rotated = 4 * self.queries * (4 if size == 4 else 5)
        rotating = rotated + size * (2 * self.hidden + self.queries + normed + 3 * self.keys)
        gating = size * (4 * self.gated + 4 * self.hidden + 2 * self.queries + 3 * self.keys)
        return rotation + max(rotating, gating)


def decoder_memory(
    config: Mapping[str, Any],
    precision: str,
    *,
    batch_tokens: int,
    workers: int = 1,
    max_length: int = 1024,
    shared_tokens: int = 0,
    requests: int = 1,
    whole_vocabulary: bool = False,
) -> DecoderMemory:
    """Return the memory that a decoder takes.

    Args:
        config: its config.json, of a type in `ko_reranker.engine.decoders.DECODERS`.
        precision: what it is computed in: fp32, bf16 or fp16.
        batch_tokens: tokens of a micro-batch; a longer sequence is one of its own.
        workers: micro-batches that are computed at the same time.
        max_length: the most tokens of a sequence.
        shared_tokens: of the beginning that a request's documents share: prompt, instruction and query.
        requests: that are being computed, each of which keeps its beginning until its answer.
        whole_vocabulary: whether the vocabulary's output rows are kept, too, as for the likelihood of a query, or to write.

    Raises:
        ValueError: the precision is none of these, or the configuration is not one of a decoder, or lacks a size.
    """
    if precision not in BYTES_OF:
        raise ValueError(f"precision is {precision!r}, and has to be one of {', '.join(BYTES_OF)}")
    shape = _Shape.of(config)
    size = BYTES_OF[precision]
    words = shape.vocabulary * shape.hidden
    output = 0 if shape.tied else words
    body = words + shape.layers * shape.layer + shape.hidden
    longest = max(batch_tokens, max_length)
    mask = 4 ** (max_length - 1).bit_length()  # bool, of sides that are powers of two
    return DecoderMemory(
        weights=size * (body + (output if whole_vocabulary else 0)),
        loading=size * (2 * body - words + output),
        beginnings=requests * shared_tokens * shape.layers * 2 * shape.keys * size,
        batches=workers * longest * shape.token(size) + mask,
    )


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"the configuration has {name} {value!r}, and it has to be a whole number above 0")
    return value
