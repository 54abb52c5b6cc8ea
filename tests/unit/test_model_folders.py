"""Models that are not what they seem: each is scored rightly, or refused by a sentence that says what to do."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    ConvBertConfig,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RoFormerConfig,
    XLMRobertaForSequenceClassification,
)
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.models import resolve_model
from ko_reranker.operations import packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage
from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.folders import relevant_label
from ko_reranker.samples import tiny_model

QUERY = "서울의 인구"
DOCUMENTS = ["서울 940 만 명", "부산 항구", "", "서울 의 인구 는 한국 에서 가장 많다 " * 6, "인구"]
WORDS = ["서울", "의", "인구", "서울의", "부산", "940", "만", "명", "항구", "는", "한국", "에서", "가장", "많다"]
# Compared with what transformers computes in fp32, whatever this processor would take.
EXACT = EngineOptions(dtype="fp32")
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A sound model, to be spoilt."""
    return shutil.copytree(resolve_model("sample:tiny"), tmp_path / "model")


def refused(folder: Path, **options) -> str:
    with pytest.raises(RankerError) as caught:
        load_ranker(folder, **options)
    return str(caught.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def rewrite(path: Path, **changes) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}), encoding="utf-8")


def words(
    *, padding: str | None = "[PAD]", typed: bool = True, side: str = "right", end: str = "[SEP]"
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as KLUE's are: token types from a BERT's template."""
    pieces = {piece: index for index, piece in enumerate(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *WORDS])}
    backend = Tokenizer(WordPiece(pieces, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single=f"[CLS] $A {end}",
        pair=f"[CLS] $A [SEP] $B:1 {end}:1",
        special_tokens=[(piece, pieces[piece]) for piece in ("[CLS]", "[SEP]", "[PAD]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token=padding,
        padding_side=side,
        model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
    )


def seeded(config, tokenizer: PreTrainedTokenizerFast, folder: Path, auto=AutoModelForSequenceClassification):
    """Save a model of seeded weights, large enough that scores differ, and its tokenizer; return the model."""
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def one_by_one(model: nn.Module, tokenizer: PreTrainedTokenizerFast, *, types: bool) -> np.ndarray:
    """The logits that plain `transformers` gives to single pairs, where nothing is padded: (documents, labels)."""
    rows = []
    for document in DOCUMENTS:
        inputs = tokenizer([QUERY], [document], return_tensors="pt", return_token_type_ids=types)
        with torch.inference_mode():
            rows.append(model(**inputs).logits[0].numpy())
    return np.stack(rows)


# Files that are missing, cut off, or stand for others.


def test_a_model_without_a_tokenizer_is_refused_by_name(tiny: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tiny / name).unlink()
        assert "no tokenizer: tokenizer.json is missing. Copy" in refused(tiny)


def test_a_sentencepiece_model_alone_is_refused_with_the_way_to_convert_it(tiny: Path) -> None:
    (tiny / "tokenizer.json").unlink()
    (tiny / "sentencepiece.bpe.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    assert "SentencePiece model only (sentencepiece.bpe.model)" in (sentence := refused(tiny))
    assert "save_pretrained" in sentence


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_refused_by_the_name_of_its_file(tiny: Path, name: str) -> None:
    (tiny / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2271071852\n")
    assert f"Git LFS pointers instead of {name}: run `git lfs pull`" in refused(tiny)


def test_a_pointer_of_a_file_that_is_not_read_is_nobodys_business(tiny: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin"):
        (tiny / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    (tiny / "requirements.txt").touch()
    assert len(load_ranker(tiny, EXACT).score(QUERY, DOCUMENTS)) == len(DOCUMENTS)


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "part/../../model.safetensors", "weights.pkl"])
def test_an_index_names_safetensors_of_its_own_folder_only(tiny: Path, name: str) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.dense.weight": name}}))
    assert f"names the file {name!r} in model.safetensors.index.json" in refused(tiny)


def test_modules_lie_in_the_models_own_folder(tiny: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "x.Dense", "path": "../1_Dense"}]
    (tiny / "modules.json").write_text(json.dumps(modules))
    assert "leads out of its folder ('../1_Dense')" in refused(tiny)


def test_weights_that_were_cut_off_are_told_with_both_sizes(tiny: Path) -> None:
    path = tiny / "model.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{whole - 1000:,} bytes where its header tells of {whole:,}" in refused(tiny)
    path.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    assert "no safetensors file" in refused(tiny)
    path.write_bytes(b"")
    assert "empty files, model.safetensors" in refused(tiny)
    path.unlink()
    assert "no weights: model.safetensors is missing" in refused(tiny)


def test_a_file_that_an_index_names_and_is_not_there_is_named(tiny: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(tiny).save_pretrained(tiny, max_shard_size="100KB")
    (tiny / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(tiny.glob("model-*.safetensors"))
    assert len(shards) > 1 and len(load_ranker(tiny, EXACT).score(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    shards[0].unlink()
    assert f"lacks 1 of its {len(shards)} files of weights ({shards[0].name})" in refused(tiny)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "without model_type"), ("{", "unreadable config.json"), ("[]", "no JSON dict")],
    ids=["no-type", "cut-off", "a-list"],
)
def test_a_config_that_is_none_is_told(tiny: Path, content: str, said: str) -> None:
    (tiny / "config.json").write_text(content)
    assert said in refused(tiny)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_a_quantised_model_is_refused_by_its_method(tiny: Path, method: str) -> None:
    rewrite(tiny / "config.json", quantization_config={"quant_method": method, "bits": 4})
    assert f"quantised by {method}" in refused(tiny)


def spoilt(folder: Path) -> str:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    return f"{folder} holds Git LFS pointers instead of model.safetensors: run `git lfs pull` where it was cloned"


def test_every_command_gives_the_same_answer(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = spoilt(tiny)
    for name in ("leave_on_signals", "configure_logging"):
        monkeypatch.setattr(f"ko_reranker.serving.{'server' if 'signals' in name else 'logs'}.{name}", lambda: None)
    questions, dataset = tmp_path / "questions.jsonl", tmp_path / "processing/input/dataset"
    dataset.mkdir(parents=True)
    for file in (questions, dataset / "train.jsonl"):
        file.write_text(json.dumps({"query": QUERY, "pos": [DOCUMENTS[0]], "neg": [DOCUMENTS[1]]}) + "\n")
    for command in (
        ["serve", "--model", str(tiny), "--host", "127.0.0.1", "--port", str(free_port())],
        ["evaluate", "--data", str(questions), "--model", str(tiny), "--output", str(tmp_path / "report")],
        ["mine", "--teacher", str(tiny), "--base-dir", str(tmp_path)],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        said = done.output if isinstance(done.exception, SystemExit) else str(done.exception)
        assert sentence in " ".join(said.split()), (command, said)


def test_the_registry_takes_no_model_that_the_endpoint_could_not_start_with(tiny: Path) -> None:
    stage = Stage("dev", "ko-reranker-dev", "ap-northeast-2", None, _outputs={"DataBucket": "data"})
    sentence = spoilt(tiny)
    with pytest.raises(OperationError, match=re.escape(sentence)):
        packages.register(stage, str(tiny), approve=False)


# Weights that are not those of a reranker.


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_a_transformer_without_a_head_scores_nothing_and_says_so(tiny: Path, auto) -> None:
    auto.from_pretrained(tiny).save_pretrained(tiny)
    assert "no head that scores (classifier.dense.bias" in (sentence := refused(tiny))
    assert "cross-encoder" in sentence


def test_a_head_without_one_of_its_tensors_is_no_head(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    del weights["classifier.out_proj.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    assert "classifier.out_proj.weight missing" in refused(tiny)


def test_layers_that_weights_or_config_have_too_many_of_are_told(tiny: Path) -> None:
    rewrite(tiny / "config.json", num_hidden_layers=1)
    assert "no place for (roberta.encoder.layer.1." in refused(tiny)
    rewrite(tiny / "config.json", num_hidden_layers=3)
    assert "lacks weights of its transformer (roberta.encoder.layer.2." in refused(tiny)
    rewrite(tiny / "config.json", num_hidden_layers=2, vocab_size=99)
    assert "not those of its config.json: roberta.embeddings.word_embeddings.weight is (" in refused(tiny)


def test_a_generative_model_whose_prompt_nothing_says_is_refused_by_name(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=64, **SHAPE, num_key_value_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    assert "generative model (LlamaForCausalLM)" in refused(tmp_path)


def test_weights_that_are_no_numbers_are_named(tiny: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    weights["roberta.encoder.layer.1.output.dense.weight"][3, 5] = float("nan")
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    assert "layer.1.output.dense.weight holds NaN" in refused(tiny)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=12, num_labels=1, **SHAPE)
    seeded(config, words(), tmp_path)
    assert "ids up to 18 and embeddings for 12 tokens" in refused(tmp_path)


def test_a_tokenizer_that_knows_no_letter_is_refused(tmp_path: Path) -> None:
    tokenizer = words()
    seeded(BertConfig(vocab_size=len(tokenizer), num_labels=1, **SHAPE), tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    # KoBERT's list: pieces of SentencePiece, which a BERT's tokenizer reads as whole words.
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁서울", "▁인구", "의", "?"]))
    rewrite(tmp_path / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert "knows none of the letters" in refused(tmp_path)


def test_an_adapter_is_refused_alone_and_beside_its_model(tiny: Path) -> None:
    (tiny / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter (adapter_config.json)" in refused(tiny)
    (tiny / "config.json").unlink()
    assert "merge_and_unload" in refused(tiny)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('{"family": "listwise"}', "family listwise"),
        ('{"max_length": 3}', "max_length 3"),
        ('{"max_length": "512"}', "max_length '512'"),
        ("{", "unreadable reranker.json"),
    ],
)
def test_settings_of_another_version_are_told(tiny: Path, settings: str, said: str) -> None:
    (tiny / "reranker.json").write_text(settings)
    assert said in refused(tiny)


def test_a_model_of_hardly_any_positions_is_refused(tmp_path: Path) -> None:
    tokenizer = words()
    seeded(BertConfig(vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=8, **SHAPE), tokenizer, tmp_path)
    assert "positions for 8 tokens" in refused(tmp_path)


def test_a_chat_models_classifier_whose_prompt_is_nowhere_is_refused(tmp_path: Path) -> None:
    tokenizer = words(typed=False)
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=1, **SHAPE)
    tokenizer.chat_template = "{{ messages }}"
    seeded(config, tokenizer, tmp_path)
    assert len(load_ranker(tmp_path, EXACT).score(QUERY, DOCUMENTS)) == len(DOCUMENTS)  # it has a frame of its own
    bare = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bare))
    assert "prompt that is in none of its files" in refused(tmp_path)


# Labels.


@pytest.mark.parametrize(
    ("labels", "relevant"),
    [
        (["irrelevant", "relevant"], 1),
        (["Relevant", "Not relevant"], 0),
        (["no", "yes"], 1),
        (["false", "TRUE"], 1),
        (["0", "1"], 1),
        (["LABEL_0", "LABEL_1"], None),
        (["negative", "positive"], None),
        (["relevant", "yes"], None),
        (["a", "no", "yes"], None),
    ],
)
def test_which_label_is_the_relevant_one_is_read_from_the_names_or_not_at_all(labels: list[str], relevant: int | None) -> None:
    assert relevant_label(labels) == relevant


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, ElectraConfig], ids=lambda item: item.model_type)
@pytest.mark.parametrize("names", [("irrelevant", "relevant"), ("yes", "no")])
def test_two_named_labels_score_by_the_difference_whose_sigmoid_is_their_softmax(config_class, names, tmp_path: Path) -> None:
    tokenizer = words(typed=config_class is not RobertaConfig)
    ids = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}, "pad_token_id": 1}
    model = seeded(config_class(vocab_size=len(tokenizer), **SHAPE, **ids), tokenizer, tmp_path)
    logits = one_by_one(model, tokenizer, types=config_class is not RobertaConfig)
    relevant = names.index("relevant") if "relevant" in names else names.index("yes")
    scores = load_ranker(tmp_path, EXACT).score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, logits[:, relevant] - logits[:, 1 - relevant], atol=1e-4)
    softmax = torch.from_numpy(logits).softmax(1)[:, relevant]
    torch.testing.assert_close(torch.from_numpy(scores).sigmoid(), softmax, atol=1e-5, rtol=1e-4)
    assert scores.std() > 1e-2


def test_labels_whose_names_say_nothing_are_refused_with_what_to_write(tiny: Path) -> None:
    config = tiny_model.build_model(len(tiny_model.load_tokenizer()), 0).config
    config.num_labels = 2
    XLMRobertaForSequenceClassification(config).save_pretrained(tiny)
    assert "2 labels without names" in (sentence := refused(tiny))
    assert '"id2label": {"0": "irrelevant", "1": "relevant"}' in sentence
    rewrite(tiny / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert "2 labels (LABEL_0, LABEL_1)" in refused(tiny)
    config.num_labels = 3
    XLMRobertaForSequenceClassification(config).save_pretrained(tiny)
    assert "3 labels" in (sentence := refused(tiny))
    assert "ignore_mismatched_sizes" not in sentence


# Padding and token types.


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("padding", ["[PAD]", None])
@pytest.mark.parametrize("own", [1, 7, None], ids=["own", "another", "none"])
@pytest.mark.parametrize("kind", [RoFormerConfig, DistilBertConfig, LlamaConfig], ids=lambda item: item.model_type)
def test_a_pairs_logit_is_that_of_the_pair_alone_whatever_pads_it(kind, own, padding, side, tmp_path: Path) -> None:
    tokenizer = words(padding=padding, side=side)
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64} if kind is DistilBertConfig else SHAPE
    config = kind(vocab_size=len(tokenizer), num_labels=1, **shape)
    config.pad_token_id = own
    model = seeded(config, tokenizer, tmp_path)
    rewrite(tmp_path / "config.json", pad_token_id=own)
    expected = one_by_one(model, tokenizer, types=kind is RoFormerConfig)[:, 0]
    ranker = load_ranker(tmp_path, EXACT)
    np.testing.assert_allclose(ranker.score(QUERY, DOCUMENTS), expected, atol=1e-4)
    np.testing.assert_allclose(ranker.score(QUERY, DOCUMENTS[::-1])[::-1], expected, atol=1e-4)
    assert expected.std() > 1e-2


def test_a_classifier_of_the_last_token_reads_it_though_it_is_the_padding(tmp_path: Path) -> None:
    tokenizer = words(padding="[SEP]", typed=False)
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=None, **SHAPE)
    model = seeded(config, tokenizer, tmp_path)
    expected = one_by_one(model, tokenizer, types=False)[:, 0]
    np.testing.assert_allclose(load_ranker(tmp_path, EXACT).score(QUERY, DOCUMENTS), expected, atol=1e-4)


def test_a_model_whose_scores_padding_would_move_is_never_padded(tmp_path: Path) -> None:
    tokenizer = words()
    config = ConvBertConfig(vocab_size=len(tokenizer), num_labels=1, embedding_size=32, **SHAPE)  # its convolutions see padding
    model = seeded(config, tokenizer, tmp_path)
    ranker = load_ranker(tmp_path, EXACT)
    expected = one_by_one(model, tokenizer, types=True)[:, 0]
    np.testing.assert_allclose(ranker.score(QUERY, DOCUMENTS), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_klues_roberta_with_a_berts_tokenizer_and_one_token_type_scores(kind: str, tmp_path: Path, monkeypatch) -> None:
    tokenizer = words()
    config = RobertaConfig(
        vocab_size=len(tokenizer), num_labels=1, type_vocab_size=1, max_position_embeddings=130, pad_token_id=1, **SHAPE
    )
    model = seeded(config, tokenizer, tmp_path)
    if kind == "padded":
        monkeypatch.setattr("ko_reranker.rankers.cross_encoder.ENCODERS", {})
    expected = one_by_one(model, tokenizer, types=False)[:, 0]
    ranker = load_ranker(tmp_path, EXACT)
    assert ranker.max_length == 128
    np.testing.assert_allclose(ranker.score(QUERY, DOCUMENTS), expected, atol=1e-4)
    assert expected.std() > 1e-2


# Modules of sentence-transformers.


def modular(folder: Path, pooling: str = "cls", *, kind: str = "CrossEncoder") -> Callable[[str], float]:
    """Save a CrossEncoder as sentence-transformers 6.2 does, and return what scores a document by the definition."""
    tokenizer = words()
    body = seeded(BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **SHAPE), tokenizer, folder, AutoModel)
    torch.manual_seed(1)
    inner, outer = nn.Linear(32, 8), nn.Linear(8, 1)
    modules = [("base.modules.transformer.Transformer", ""), ("sentence_transformer.modules.pooling.Pooling", "1_Pooling")]
    modules += [("base.modules.dense.Dense", f"{index}_Dense") for index in (2, 3)]
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{type_}"}
        for index, (type_, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    told = {
        "model_type": kind,
        "prompts": {},
        "default_prompt_name": None,
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    dense = [
        (inner, "torch.nn.modules.activation.Tanh", "sentence_embedding"),
        (outer, "torch.nn.modules.linear.Identity", "scores"),
    ]
    (folder / "1_Pooling").mkdir()
    settings = {"embedding_dimension": 32, "pooling_mode": pooling, "include_prompt": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(settings))
    for index, (layer, activation, output) in enumerate(dense, start=2):
        place = folder / f"{index}_Dense"
        place.mkdir()
        settings = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": True,
            "activation_function": activation,
            "module_input_name": "sentence_embedding",
            "module_output_name": output,
        }
        (place / "config.json").write_text(json.dumps(settings))
        save_file({f"linear.{name}": value for name, value in layer.state_dict().items()}, place / "model.safetensors")

    def score(document: str) -> float:
        inputs = tokenizer([QUERY], [document], return_tensors="pt")
        with torch.inference_mode():
            states = body(**inputs).last_hidden_state[0]
            pooled = {"cls": states[0], "mean": states.mean(0), "max": states.amax(0), "lasttoken": states[-1]}[pooling]
            return outer(torch.tanh(inner(pooled))).item()

    return score


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "lasttoken"])
def test_a_cross_encoder_of_modules_scores_by_its_dense_head(tmp_path: Path, pooling: str) -> None:
    score = modular(tmp_path, pooling)
    expected = [score(document) for document in DOCUMENTS]
    np.testing.assert_allclose(load_ranker(tmp_path, EXACT).score(QUERY, DOCUMENTS), expected, atol=1e-4)
    assert np.std(expected) > 1e-2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "3_Dense/model.safetensors").unlink(), "3_Dense/model.safetensors is missing"),
        (lambda folder: (folder / "3_Dense/config.json").unlink(), "lacks 3_Dense/config.json"),
        (
            lambda folder: (folder / "2_Dense/model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
            "LFS",
        ),
        (lambda folder: rewrite(folder / "2_Dense/config.json", activation_function="evil.run"), "activation evil.run"),
        (lambda folder: rewrite(folder / "2_Dense/config.json", in_features=5), "5 inputs where 32 come in"),
        (lambda folder: rewrite(folder / "3_Dense/config.json", module_output_name="sentence_embedding"), "no reranker"),
        (
            lambda folder: rewrite(folder / "1_Pooling/config.json", pooling_mode="weightedmean"),
            "pools its tokens by weightedmean",
        ),
        (
            lambda folder: rewrite(
                folder / "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q"
            ),
            "prompt before every text",
        ),
        (
            lambda folder: (folder / "modules.json").write_text(
                (folder / "modules.json").read_text().replace("dense.Dense", "logit_score.LogitScore")
            ),
            "which prompt it reads",
        ),
        (
            lambda folder: rewrite(folder / "2_Dense/config.json", module_input_name="token_embeddings"),
            "reads token_embeddings",
        ),
        (lambda folder: rewrite(folder / "2_Dense/config.json", module_output_name="other"), "where other comes in (3_Dense)"),
        (lambda folder: (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}'), "lower case"),
    ],
    ids=[
        "no-weights",
        "no-settings",
        "pointer",
        "activation",
        "width",
        "no-scores",
        "pooling",
        "prompt",
        "generative",
        "tokens-read",
        "not-read",
        "lower-case",
    ],
)
def test_modules_that_cannot_be_computed_are_refused_by_name(tmp_path: Path, spoil, said: str) -> None:
    modular(tmp_path)
    spoil(tmp_path)
    assert said in refused(tmp_path)


def test_an_embedding_model_is_refused_by_name(tmp_path: Path) -> None:
    modular(tmp_path, kind="SentenceTransformer")
    assert "embedding model of sentence-transformers" in refused(tmp_path)


# Code of its own.

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification
class OwnConfig(XLMRobertaConfig):
    model_type = "own"
class OwnModel(XLMRobertaForSequenceClassification):
    config_class = OwnConfig
"""


def with_code(folder: Path, marker: Path, *, model_type: str) -> None:
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    rewrite(folder / "config.json", model_type=model_type, auto_map=auto_map)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))


@pytest.mark.parametrize("model_type", ["own", "xlm-roberta"])
def test_code_of_a_model_is_not_run_and_nobody_is_asked(tiny: Path, tmp_path: Path, model_type: str, monkeypatch) -> None:
    with_code(tiny, tmp_path / "ran", model_type=model_type)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a person was asked"))
    assert "Python code of its own" in (sentence := refused(tiny))
    assert "--trust-remote-code" in sentence and not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_not_run_either(tiny: Path, tmp_path: Path) -> None:
    (tiny / "own.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    rewrite(tiny / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    assert "own.OwnTokenizer" in refused(tiny)
    assert not (tmp_path / "ran").exists()


def test_code_that_is_trusted_is_run(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    expected = load_ranker(tiny, EXACT).score(QUERY, DOCUMENTS)
    with_code(tiny, tmp_path / "ran", model_type="own")
    np.testing.assert_allclose(load_ranker(tiny, EXACT, trust_remote_code=True).score(QUERY, DOCUMENTS), expected, atol=1e-5)
    assert (tmp_path / "ran").exists()


def test_trusted_code_has_to_be_pinned(tiny: Path, tmp_path: Path) -> None:
    for address in ("org/model", "org/model@main", "org/model@" + "a" * 39):
        assert "pinned" in refused(address, trust_remote_code=True)
    with_code(tiny, tmp_path / "ran", model_type="own")
    rewrite(tiny / "config.json", auto_map={"AutoModelForSequenceClassification": "org/other--own.OwnModel"})
    assert "another repository" in refused(tiny, trust_remote_code=True)
    rewrite(tiny / "config.json", auto_map={"AutoModelForSequenceClassification": "gone.OwnModel"})
    assert "gone.py is missing" in refused(tiny, trust_remote_code=True)
