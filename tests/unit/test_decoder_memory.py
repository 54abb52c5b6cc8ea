"""The memory of decoders by arithmetic, against what PyTorch takes for them."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generative_models import decoder, shape
from torch.utils._python_dispatch import TorchDispatchMode  # where PyTorch's manual has it imported from
from torch.utils._pytree import tree_leaves
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ko_reranker.engine.answers import AnswerHead
from ko_reranker.engine.decoders import DECODERS, Decoder, DecoderForward
from ko_reranker.engine.items import Item
from ko_reranker.rankers.memory import decoder_memory

SHAPE = shape()
CONFIGS = {
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2, tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3, more heads than states": Qwen3Config(**SHAPE, head_dim=64),
    "qwen3, wide between": Qwen3Config(**{**SHAPE, "intermediate_size": 400}, head_dim=16),
    "gemma": GemmaConfig(**SHAPE, head_dim=32),
    "gemma2": Gemma2Config(**SHAPE, head_dim=32, query_pre_attn_scalar=24),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=16, sliding_window_pattern=2, query_pre_attn_scalar=24),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENS = 512
both_types = pytest.mark.parametrize("precision", TYPES)
all_decoders = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


class _Peak(TorchDispatchMode):
    """The most bytes that tensors made in it took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.most = dict[int, int](), 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        given = {self._place(value) for value in tree_leaves((args, kwargs)) if self._is_plain(value)}
        for tensor in filter(self._is_plain, tree_leaves(made)):
            if (place := self._place(tensor)) not in self.live and place not in given:
                self.live[place] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self.live.pop, place, None)
        self.most = max(self.most, sum(self.live.values()))
        return made

    @staticmethod
    def _is_plain(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.layout is torch.strided

    @staticmethod
    def _place(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage().data_ptr()


def in_type(config: PreTrainedConfig, precision: str) -> Any:
    return decoder(config).to(TYPES[precision])


@all_decoders
def test_weights_are_those_of_the_model(config):
    model = decoder(config)
    body = sum(parameter.numel() for parameter in model.base_model.parameters())
    every = sum(parameter.numel() for parameter in model.parameters())
    memory = decoder_memory(config.to_dict(), "bf16", batch_tokens=TOKENS)
    assert memory.weights == 2 * body
    assert decoder_memory(config.to_dict(), "fp32", batch_tokens=TOKENS, whole_vocabulary=True).weights == 4 * every
    words = model.get_input_embeddings().weight.numel()
    assert memory.loading == 2 * (every + body - words), "all but the words are there twice"


@both_types
@all_decoders
def test_a_beginning_takes_what_its_keys_and_values_take(config, precision):
    states = Decoder(in_type(config, precision)).prefix_states(np.arange(3, 40, dtype=np.int32))
    taken = sum(part.numel() * part.element_size() for layer in states for part in layer)
    memory = decoder_memory(config.to_dict(), precision, batch_tokens=TOKENS, shared_tokens=37, requests=3)
    assert memory.beginnings == 3 * taken
    assert memory.serving == memory.weights + memory.beginnings + memory.batches <= memory.most


@both_types
@all_decoders
def test_a_micro_batch_takes_no_more_and_hardly_less(config, precision):
    model = in_type(config, precision)
    forward = DecoderForward(Decoder(model), AnswerHead(model.get_output_embeddings().weight[[7, 9]]))
    items = [Item(np.arange(3, 67, dtype=np.int32)) for _ in range(TOKENS // 64)]
    forward(items)  # the mask is made once
    with _Peak() as peak:
        forward(items)
    batches = decoder_memory(config.to_dict(), precision, batch_tokens=TOKENS, max_length=64).batches - 64**2
    # Positions and boundaries, some bytes a token, aside.
    assert 0.85 * batches < peak.most < 1.05 * batches
    two = decoder_memory(config.to_dict(), precision, batch_tokens=TOKENS, workers=2, max_length=64).batches - 64**2
    assert two == 2 * batches


@pytest.mark.parametrize("kind", DECODERS)
def test_every_type_that_is_computed_is_reckoned(kind):
    assert decoder_memory(CONFIGS["llama, biases"].to_dict() | {"model_type": kind}, "bf16", batch_tokens=256).most > 0


def test_a_sequence_longer_than_a_micro_batch_is_one():
    config = CONFIGS["gemma"].to_dict()
    long, short = (decoder_memory(config, "fp32", batch_tokens=256, max_length=length).batches for length in (1000, 200))
    assert long - 1024**2 == (short - 256**2) * 1000 / 256


# What the files of the published models say.
QWEN3 = {"model_type": "qwen3", "vocab_size": 151_669, "head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
QWEN2 = {"model_type": "qwen2", "vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
GEMMA = {"model_type": "gemma", "vocab_size": 256_000, "head_dim": 256, "num_key_value_heads": 1}
PUBLISHED = {
    "mxbai-rerank-base-v2": (QWEN2, 896, 24, 14, 4_864),
    "Qwen3-Reranker-0.6B": (QWEN3, 1_024, 28, 16, 3_072),
    "mxbai-rerank-large-v2": (QWEN2, 1_536, 28, 12, 8_960),
    "bge-reranker-v2-gemma": (GEMMA, 2_048, 18, 8, 16_384),
    "Qwen3-Reranker-4B": (QWEN3, 2_560, 36, 32, 9_728),
    "Qwen3-Reranker-8B": (QWEN3 | {"tie_word_embeddings": False}, 4_096, 36, 32, 12_288),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documented_figures_are_what_is_reckoned(name):
    config, hidden, layers, heads, between = PUBLISHED[name]
    config = config | {"hidden_size": hidden, "num_hidden_layers": layers}
    config |= {"num_attention_heads": heads, "intermediate_size": between}
    gpu = decoder_memory(config, "bf16", batch_tokens=16_384, shared_tokens=200)
    cpu = decoder_memory(config, "fp32", batch_tokens=2_048)
    columns = [f"{value / 1e9:.2f} GB" for value in (gpu.weights, gpu.loading, cpu.weights, cpu.loading)]
    columns += [f"{gpu.beginnings / 1e6:.1f} MB", *(f"{memory.batches / 1e9:.2f} GB" for memory in (gpu, cpu))]
    assert f"| {name} | {' | '.join(columns)} |" in (Path(__file__).parents[2] / "docs/families.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "precision", "message"),
    [
        (CONFIGS["gemma"].to_dict(), "int8", "precision is 'int8', and has to be one of fp32, bf16, fp16"),
        ({"model_type": "qwen3", "hidden_size": 64}, "fp32", "has num_attention_heads None, and it has to be a whole number"),
        (CONFIGS["gemma"].to_dict() | {"hidden_size": "48"}, "fp32", "has hidden_size '48'"),
        (CONFIGS["gemma"].to_dict() | {"vocab_size": 0}, "fp32", "has vocab_size 0"),
        ({"model_type": "bert", "hidden_size": 64}, "fp32", "is not one of a decoder: model_type is 'bert'"),
        (["qwen3"], "fp32", "model_type is None"),
    ],
)
def test_what_cannot_be_reckoned_is_refused(config, precision, message):
    with pytest.raises(ValueError, match=message):
        decoder_memory(config, precision, batch_tokens=256)
