"""Late-interaction models small enough to be made in a test: random weights, in each layout that is read."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from ko_reranker.rankers.late_interaction_folders import LateInteractionSettings, Projection, write_layout
from ko_reranker.samples import tiny_model

HIDDEN, DIM, POSITIONS = 32, 16, 256
SHAPE = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PIECES = {
    "words": (
        "서울",
        "의",
        "부산",
        "인구",
        "는",
        "항구",
        "도시",
        "이다",
        "가장",
        "많다",
        "한국",
        "에서",
        "940",
        "만",
        "명",
        "강",
    ),
    "marks": (".", ",", "!", "?", "[", "]"),
    "pieces": ("unused", "##0", "##1", "##은", "##에"),
}
QUERY = "서울 의 인구 는?"
DOCUMENTS = [
    "서울 의 인구 는 940 만 명 이다.",
    "부산 은 항구 도시 이다!",
    "",
    "...",
    " ".join(["한국 에서 인구 가 가장 많다, 그리고 강 과 바다."] * 3),
]


def word_pieces() -> PreTrainedTokenizerFast:
    """Return a BERT's tokenizer whose vocabulary has the markers of Stanford's layout."""
    words = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chain(*PIECES.values())]
    backend = Tokenizer(WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(strip_accents=False), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=POSITIONS,
    )


def transformer(kind: str, folder: Path, seed: int = 0) -> PreTrainedModel:
    """Write a transformer with random weights and its tokenizer: ``bert``, ``xlm-roberta`` or ``modernbert``."""
    tokenizer = tiny_model.load_tokenizer() if kind == "xlm-roberta" else word_pieces()
    tokenizer.model_max_length = POSITIONS
    torch.manual_seed(seed)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "bert":
        model: PreTrainedModel = BertModel(
            BertConfig(**SHAPE, **ids, max_position_embeddings=POSITIONS), add_pooling_layer=False
        )
    elif kind == "xlm-roberta":
        config = XLMRobertaConfig(**SHAPE, **ids, max_position_embeddings=POSITIONS + 2, type_vocab_size=1)
        model = XLMRobertaModel(config, add_pooling_layer=False)
    else:
        edges = {"bos_token_id": 4, "cls_token_id": 4, "eos_token_id": 5, "sep_token_id": 5}
        config = ModernBertConfig(**SHAPE, **ids, **edges, max_position_embeddings=POSITIONS, local_attention=8)
        model = ModernBertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # at the usual start all tokens of a text look alike
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def ours(kind: str, folder: Path, *, bias: bool = True, seed: int = 0, **settings: object) -> Path:
    """Write a model in our own layout."""
    transformer(kind, folder, seed)
    weight = torch.randn(DIM, HIDDEN)
    projection = Projection(weight, torch.randn(DIM) if bias else None)
    write_layout(folder, LateInteractionSettings(**{"dim": DIM, "document_length": POSITIONS} | settings), projection)  # type: ignore[arg-type]
    return folder


def stanford(folder: Path, **metadata: object) -> Path:
    """Write Stanford's layout: the projection among the weights, the rules in artifact.metadata."""
    transformer("bert", folder)
    weights = {f"bert.{key}": tensor for key, tensor in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(DIM, HIDDEN)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["HF_ColBERT"])
    told = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 16, "doc_maxlen": 40}
    (folder / "artifact.metadata").write_text(json.dumps(told | {"attend_to_mask_tokens": False} | metadata))
    return folder


def pylate(folder: Path, *, kind: str = "bert", dense: str = "pylate.models.Dense.Dense", **told: object) -> Path:
    """Write PyLate's layout: a transformer, a Dense, and settings; what it masks and normalises is in no file."""
    transformer(kind, folder)
    _modules(folder, [("sentence_transformers.models.Transformer", ""), (dense, "1_Dense")])
    _dense(folder / "1_Dense", bias=False)
    rules = {"query_prefix": "[unused0] ", "document_prefix": "[unused1] ", "query_length": 16, "document_length": 40}
    settings = {"model_type": "ColBERT", "similarity_fn_name": "MaxSim"} | rules | told
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def bge(folder: Path) -> Path:
    """Write bge-m3's layout: an embedding model of sentence-transformers, with another linear layer beside it."""
    transformer("xlm-roberta", folder)
    torch.save({"weight": torch.randn(HIDDEN, HIDDEN), "bias": torch.randn(HIDDEN)}, folder / "colbert_linear.pt")
    kinds = "Transformer", "Pooling", "Normalize"
    _modules(folder, [(f"sentence_transformers.models.{kind}", f"{at}_{kind}" if at else "") for at, kind in enumerate(kinds)])
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "SentenceTransformer"}')
    return folder


def edit(path: Path, **changes: object) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    entries = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (kind, path) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": POSITIONS, "do_lower_case": False}))


def _dense(folder: Path, *, bias: bool) -> None:
    folder.mkdir()
    identity = "torch.nn.modules.linear.Identity"
    settings = {"in_features": HIDDEN, "out_features": DIM, "bias": bias, "activation_function": identity}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"linear.weight": torch.randn(DIM, HIDDEN)}, folder / "model.safetensors")
