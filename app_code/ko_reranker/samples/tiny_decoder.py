"""The demonstration model of the generative family: a Llama small enough to train in seconds on one core.

    python -m ko_reranker.samples.tiny_decoder FOLDER

Like `tiny_model`, it is written from a seed and starts with a wiring that makes it easy to see that a passage repeats words of
the query. Its prompt is query, ``</s>``, passage, ``</s>``, and the answers are two pieces:

- In the first layer a token looks for an ``</s>`` before it: so those of the passage are told from those of the query.
- In the second, queries and keys use one and the same projection: a token attends to those before it of the same piece, itself
  included, and learns on which side they stand. One of the passage that stands in the query, too, is then told from one that
  does not.
- The third layer and the answers' rows, which could judge, start random. Untrained it ranks like chance.

A rotation by position would blur all of this; the positions' frequencies are so low that half of the channels stand still.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import save_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ko_reranker.data.jsonl import write_json
from ko_reranker.samples.tiny_model import load_tokenizer

HIDDEN, HEADS, HEAD_SIZE = 64, 2, 64
MAX_LENGTH = 256
WEIGHT_STD = 0.1  # of everything random
SHARPNESS = 4.0  # of the second layer's attention: equal pieces take nearly all of it
# The last channels of the hidden state are kept free of content: 1 in all tokens, in <s>, in </s>; then the two findings.
ONE, FIRST, END, SIDE, SEEN = range(HIDDEN - 5, HIDDEN)
CONTENT = HIDDEN - 5
# The channels of a head that no position rotates.
_STILL = [*range(HEAD_SIZE // 4, HEAD_SIZE // 2), *range(3 * HEAD_SIZE // 4, HEAD_SIZE)]
_PROMPT = """\
source: Ours, for the demonstration model alone.
join: ids
pieces:
  - special: bos
  - text: "{query}"
  - literal: "</s>"
  - text: "{document}"
  - literal: "</s>"
positive: "예"
negative: "아니"
"""


def version() -> str:
    """Return what tells this model from one of another wiring or tokenizer, for the name of a cached copy."""
    from ko_reranker.samples import tiny_model

    return hashlib.sha256(Path(__file__).read_bytes() + tiny_model.version().encode()).hexdigest()[:16]


def build(directory: Path, seed: int = 0) -> Path:
    """Write the untrained model, its tokenizer and its prompt to a folder, and return the folder."""
    tokenizer = load_tokenizer()
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(directory)
    model = build_model(len(tokenizer), seed)
    model.config.architectures, model.config.dtype = [type(model).__name__], "float32"
    model.config.save_pretrained(directory)
    # Not the model's own `save_pretrained`: see `tiny_model`.
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    (directory / "prompt.yaml").write_text(_PROMPT, encoding="utf-8")
    write_json(directory / "reranker.json", {"family": "generative", "max_length": MAX_LENGTH})
    return directory


def build_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """Return the model with its seeded start."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_SIZE,
        intermediate_size=HIDDEN,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 1e16},
        tie_word_embeddings=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2 and "embed" not in name:
                    parameter.normal_(std=WEIGHT_STD)
            _wire(model)
    model.eval()
    return model


def _wire(model: LlamaForCausalLM) -> None:
    words = model.model.embed_tokens.weight  # (vocabulary, HIDDEN)
    words.normal_()
    words[:, CONTENT:] = 0
    words[:4] *= 0.1  # <s>, <pad>, </s>, <unk>: little content
    words[:, ONE] = 2
    words[0, FIRST] = words[2, END] = 4
    first, second = model.model.layers[0], model.model.layers[1]
    for layer in (first, second):
        _hush(layer)
    query, key, value, output = _attention(first)
    still = _STILL[0]
    query[still, ONE], key[still, END], key[still, FIRST] = 1, 6, 3
    value[0, END], output[SIDE, 0] = 0.4, 1
    query, key, value, output = _attention(second)
    projection = torch.linalg.qr(torch.randn(CONTENT, len(_STILL)))[0].T * math.sqrt(SHARPNESS)
    query[_STILL, :CONTENT] = key[_STILL, :CONTENT] = projection
    value[0, SIDE], output[SEEN, 0] = 1, 1


def _attention(layer: LlamaDecoderLayer) -> list[torch.Tensor]:
    attention = layer.self_attn
    return [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight, attention.o_proj.weight]


def _hush(layer: LlamaDecoderLayer) -> None:
    """Let a layer add nothing but what it is wired for."""
    for weight in (*_attention(layer), layer.mlp.down_proj.weight):
        weight.zero_()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another start (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(build(arguments.folder, arguments.seed))
