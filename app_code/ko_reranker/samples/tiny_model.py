"""The demonstration model: an XLM-RoBERTa cross-encoder small enough to train in seconds on one core.

    python -m ko_reranker.samples.tiny_model FOLDER

No weights are shipped: this script writes them from a seed. A transformer with an ordinary random start needs far more
than a minute to find out that a passage that repeats the query's words is a good one. So the first layer starts with a
wiring that makes it easy to see, and everything that could judge, the second layer and the head, starts random:

- Queries and keys use one and the same projection: a token attends to the tokens of the same piece, itself included.
- One channel of the position embedding tells early tokens, where the query stands, from late ones.
- Values carry that channel into another, empty one. There each token finds the mean place of its piece: a token of the
  query that stands in the passage too differs from one that does not.

Untrained it ranks like chance; what a difference of place is worth, it learns from the records.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import math
from pathlib import Path

import torch
from safetensors.torch import save_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer, XLMRobertaSelfAttention

from ko_reranker.samples.paths import TOKENIZER

HIDDEN = 64
MAX_LENGTH = 128
SHARPNESS = 4.0  # of the first layer's attention: equal pieces take nearly all of it
QUERY_END, QUERY_BLUR = 11.0, 5.0  # the place, in tokens, where a query usually ends, and how gradually
WEIGHT_STD = 0.1  # of everything random; a hundredth would take long to grow
# The last two channels of the hidden state are kept free of content.
MEAN_PLACE, PLACE = HIDDEN - 2, HIDDEN - 1


def version() -> str:
    """Return what tells this model from one of another wiring or tokenizer, for the name of a cached copy."""
    return hashlib.sha256(Path(__file__).read_bytes() + TOKENIZER.read_bytes()).hexdigest()[:16]


def build(directory: Path, seed: int = 0) -> Path:
    """Write the untrained model and its tokenizer to a folder, and return the folder."""
    tokenizer = load_tokenizer()
    tokenizer.save_pretrained(directory)
    model = build_model(len(tokenizer), seed)
    model.config.architectures, model.config.dtype = [type(model).__name__], "float32"
    model.config.save_pretrained(directory)
    # Not the model's own `save_pretrained`: among the workers of a run only the first one's writes weights, and each host needs
    # the model.
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Return the pruned tokenizer, with the special tokens of XLM-RoBERTa."""
    with gzip.open(TOKENIZER, "rt", encoding="utf-8") as stream:
        backend = Tokenizer.from_str(stream.read())
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",  # noqa: S106  a piece, not a secret
        eos_token="</s>",  # noqa: S106
        cls_token="<s>",  # noqa: S106
        sep_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        mask_token="<mask>",  # noqa: S106
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_model(vocabulary: int, seed: int) -> XLMRobertaForSequenceClassification:
    """Return the model with its seeded start."""
    config = XLMRobertaConfig(  # type: ignore[call-arg]  # of num_labels, which all configurations take
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH + 2,  # XLM-R counts places from 2
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        num_labels=1,
        initializer_range=WEIGHT_STD,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = XLMRobertaForSequenceClassification(config)
        _wire_embeddings(model)
        _wire_first_layer(model)
    return model


def _wire_embeddings(model: XLMRobertaForSequenceClassification) -> None:
    words = model.roberta.embeddings.word_embeddings.weight  # (vocabulary, HIDDEN)
    words.normal_()
    words[:, [MEAN_PLACE, PLACE]] = 0
    words[:4] *= 0.1  # <s>, <pad>, </s>, <unk>: little content, so that place is what they show
    places = model.roberta.embeddings.position_embeddings.weight  # (MAX_LENGTH + 2, HIDDEN)
    places.normal_(std=0.02)
    places[:, MEAN_PLACE] = 0
    index = torch.arange(len(places), dtype=torch.float32) - 2
    places[:, PLACE] = 3 * torch.tanh((index - QUERY_END) / QUERY_BLUR)


def _wire_first_layer(model: XLMRobertaForSequenceClassification) -> None:
    layer = model.roberta.encoder.layer[0]
    assert isinstance(layer, XLMRobertaLayer)  # noqa: S101 - what the model is made of
    attention, dense = layer.attention.self, layer.attention.output.dense
    assert isinstance(attention, XLMRobertaSelfAttention)  # noqa: S101
    heads = model.config.num_attention_heads
    projection = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))[0] * math.sqrt(SHARPNESS)
    projection[:, [MEAN_PLACE, PLACE]] = 0
    attention.query.weight.copy_(projection)
    attention.key.weight.copy_(projection)
    attention.value.weight.normal_(std=0.02)
    dense.weight.normal_(std=0.02)
    for first in range(0, HIDDEN, HIDDEN // heads):  # one channel of each head carries the place
        attention.value.weight[first] = 0
        attention.value.weight[first, PLACE] = 1
        dense.weight[MEAN_PLACE, first] = 1 / heads


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another start (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(build(arguments.folder, arguments.seed))
