"""Small models with the heads of large ones, and pairs of any lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ModernBertConfig,
    PreTrainedModel,
    XLMRobertaConfig,
)

from ko_reranker.engine import Item
from ko_reranker.engine.encoders import Encoder, make_encoder
from ko_reranker.engine.heads import Head, logit_head

VOCABULARY = 1_000
LONGEST = 512
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_labels": 1,
    "pad_token_id": 1,
}
_MODERN = {**_SHAPE, "cls_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "local_attention": 64}
CONFIGS = {
    "xlm-roberta": XLMRobertaConfig(**_SHAPE, max_position_embeddings=LONGEST + 2, type_vocab_size=1),
    "bert": BertConfig(**_SHAPE, max_position_embeddings=LONGEST),
    "modernbert": ModernBertConfig(**_MODERN, classifier_pooling="cls"),
}


def saved(name: str, folder: Path, *, dropout: float = 0.0) -> Path:
    """Write a model with weights that tell passages apart, and return its folder."""
    config = CONFIGS[name]
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "mlp_dropout"):
        if hasattr(config, key):
            setattr(config, key, dropout)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def classifier(model: PreTrainedModel) -> tuple[Encoder, Head]:
    """Return the padding-free halves of a sequence classifier."""
    head = logit_head(model)
    return make_encoder(model, reads=head.reads), head


def make_pairs(lengths: list[int], *, typed: bool, seed: int = 0) -> list[Item]:
    """Return pairs of some lengths."""
    draw = np.random.default_rng(seed)
    return [
        Item(np.append(0, draw.integers(3, VOCABULARY, length - 1)).astype(np.int32), max(1, length // 3) if typed else None)
        for length in lengths
    ]


@torch.inference_mode()
def plain_logits(model: PreTrainedModel, pairs: list[Item]) -> np.ndarray:
    """Return each pair's logit, alone, as transformers computes it."""
    logits = []
    for pair in pairs:
        inputs = {name: torch.tensor([values], device=model.device) for name, values in pair.features.items()}
        output = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]))
        logits.append(output.logits[0, 0].item())
    return np.array(logits, np.float32)
