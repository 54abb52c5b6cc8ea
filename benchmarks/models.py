"""Model directories of the published rerankers' shapes, with seeded weights: what speed depends on, without a download.

The weights are random, but not as a fresh model's are: those give every pair the same logit, and then neither an error nor a
rank correlation means anything. Projections keep the scale of what they project, attention is peaked, and the last layer is
scaled so that the logits of the first request spread by one.
"""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import MAX_TOKENS, TOKENIZER, Request, requests

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "benchmarks"
SEED = 0
LEAST_SPREAD = 0.3
_VERSION = 1  # raised when weights change, so that none of an earlier version are used


@dataclass(frozen=True)
class Shape:
    """The size of an XLM-RoBERTa encoder.

    Attributes:
        name: what it is called on the command line.
        layers: encoder layers.
        width: hidden size; feed-forward layers are four times as wide.
        heads: attention heads.
    """

    name: str
    layers: int
    width: int
    heads: int

    def flops(self, lengths: list[int]) -> int:
        """Return the floating-point operations that scoring sequences of these lengths takes at least.

        Matrix products over real tokens, attention included. The last layer is read at the first token only, so that there
        it is keys and values of all tokens and all else of one.
        """
        width, tokens, sequences = self.width, sum(lengths), len(lengths)
        squares = sum(length * length for length in lengths)
        full = 24 * width * width * tokens + 4 * width * squares
        last = 4 * width * width * tokens + 20 * width * width * sequences + 4 * width * tokens
        head = 2 * width * (width + 1) * sequences
        return (self.layers - 1) * full + last + head

    def products(self) -> list[tuple[int, int]]:
        """Return the (inputs, outputs) of one layer's matrix products over tokens."""
        width = self.width
        return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small", layers=6, width=384, heads=12),
        Shape("base", layers=12, width=768, heads=12),  # BAAI/bge-reranker-base
        Shape("large", layers=24, width=1024, heads=16),  # BAAI/bge-reranker-large, Dongjin-kr/ko-reranker
    )
}


def model_directory(shape: Shape) -> Path:
    """Return the directory of a shape's model, made when it is not there yet."""
    folder = CACHE / f"{shape.name}-v{_VERSION}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write(shape, unfinished)
        unfinished.rename(folder)
    return folder


def _write(shape: Shape, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForSequenceClassification

    (folder / "tokenizer.json").write_bytes(gzip.decompress(TOKENIZER.read_bytes()))
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    special |= {"pad_token": "<pad>", "mask_token": "<mask>", "model_max_length": MAX_TOKENS}
    content = {"tokenizer_class": "XLMRobertaTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(content, indent=2))
    config = XLMRobertaConfig(
        vocab_size=250_002,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
    )
    torch.manual_seed(SEED)
    model = XLMRobertaForSequenceClassification(config).eval()
    with torch.inference_mode():
        for name, weight in model.named_parameters():
            if name.endswith("weight") and weight.dim() == 2 and "embeddings" not in name:
                # Each output is a sum over the inputs: this keeps its scale. Twice that for queries and keys peaks attention.
                peak = 2 if ".query." in name or ".key." in name else 1
                weight.normal_(0, peak / weight.shape[1] ** 0.5)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        logits = _logits(model, tokenizer, requests()[0].first(16))
        last = model.classifier.out_proj
        last.weight.div_(logits.std())
        last.bias.sub_(logits.mean() / logits.std())
        spread = _logits(model, tokenizer, requests()[1].first(16)).std().item()
    if spread < LEAST_SPREAD:
        raise RuntimeError(f"the logits of the {shape.name} model spread by {spread:.2f}, too little to compare rankings")
    model.save_pretrained(folder)


def _logits(model: object, tokenizer: object, request: Request):
    inputs = tokenizer(
        [request.query] * len(request.documents),
        list(request.documents),
        truncation=True,
        max_length=MAX_TOKENS,
        padding=True,
        return_tensors="pt",
    )
    return model(**inputs).logits[:, 0]
