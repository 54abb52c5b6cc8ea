"""Late-interaction models in other libraries' layouts and ours: rules are read as they are meant, nothing is made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from late_interaction_models import DIM, HIDDEN, POSITIONS, bge, edit, ours, pylate, stanford, transformer
from safetensors.torch import load_file, save_file

from ko_reranker.models import ModelNotFoundError, model_digest, resolve_model
from ko_reranker.rankers import HeadlessError, RankerError
from ko_reranker.rankers.classifiers import load_encoder
from ko_reranker.rankers.folders import gives_token_vectors
from ko_reranker.rankers.late_interaction_folders import (
    Calibration,
    Expansion,
    LateInteractionSettings,
    Projection,
    read_layout,
    write_layout,
)


def test_what_is_written_is_read(tmp_path):
    settings = LateInteractionSettings(
        dim=DIM, query_length=24, document_length=60, query_prefix="[Q] ", expansion=Expansion(12, attend=True), skip=(".",)
    )
    transformer("xlm-roberta", tmp_path)
    (tmp_path / "reranker.json").write_text('{"recipe": "ko-colbert-v1"}')
    projection = Projection(torch.randn(DIM, HIDDEN), torch.randn(DIM))
    write_layout(tmp_path, settings, projection, Calibration(31.5, -12.0, 500), base_model="ORG/base")
    layout = read_layout(tmp_path)
    assert (layout.settings, layout.calibration) == (settings, Calibration(31.5, -12.0, 500))
    torch.testing.assert_close(layout.projection.weight, projection.weight, rtol=0, atol=0)
    torch.testing.assert_close(layout.projection.bias, projection.bias, rtol=0, atol=0)
    recorded = json.loads((tmp_path / "reranker.json").read_text())
    assert recorded["family"] == "late_interaction" and recorded["recipe"] == "ko-colbert-v1"
    assert recorded["base_model"] == "ORG/base"
    assert load_encoder(layout.source, dtype=torch.float32).model.config.hidden_size == HIDDEN


def test_stanfords_metadata_are_the_rules(tmp_path):
    settings = read_layout(stanford(tmp_path)).settings
    assert (settings.query_prefix, settings.document_prefix) == ("[unused0] ", "[unused1] ")
    assert (settings.query_length, settings.document_length, settings.reduce) == (16, 40, "sum")
    assert settings.expansion == Expansion(16, attend=False) and "." in settings.skip and not settings.drop_first
    (tmp_path / "artifact.metadata").write_text('{"mask_punctuation": false, "attend_to_mask_tokens": true}')
    settings = read_layout(tmp_path).settings
    assert (settings.skip, settings.expansion, settings.document_length) == ((), Expansion(32, attend=True), POSITIONS)


@pytest.mark.parametrize("name", ["projection", "modules/first"])
def test_a_module_counts_whatever_its_folder_is_called(name, tmp_path):
    folder = pylate(tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "1_Dense").rename(folder / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    weights, digest = folder / name / "model.safetensors", model_digest(folder)
    assert read_layout(folder).settings.dim == DIM
    save_file({"linear.weight": torch.randn(DIM, HIDDEN)}, weights)
    assert model_digest(folder) != digest, "vectors that are kept are another model's"
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RankerError, match=f"Git LFS pointers instead of {name}/model.safetensors"):
        read_layout(folder)
    weights.unlink()
    (folder / name / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelNotFoundError, match=f"has its weights in {name}/pytorch_model.bin"):
        resolve_model(folder)


def test_pylates_settings_are_the_rules(tmp_path):
    settings = read_layout(pylate(tmp_path)).settings
    assert settings.expansion == Expansion(16) and "." in settings.skip and settings.query_prefix == "[unused0] "
    edit(tmp_path / "config_sentence_transformers.json", do_query_expansion=False, skiplist_words=["!"], query_length=20)
    settings = read_layout(tmp_path).settings
    assert (settings.expansion, settings.skip, settings.query_length) == (None, ("!",), 20)


def test_bge_m3_averages_and_drops_the_first_token(tmp_path):
    layout = read_layout(bge(tmp_path))
    assert (layout.settings.reduce, layout.settings.drop_first, layout.settings.dim) == ("mean", True, HIDDEN)
    assert layout.projection.bias is not None and layout.settings.expansion is None


def test_linear_layers_in_a_row_are_one(tmp_path):
    folder = pylate(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, modules[1] | {"idx": 2, "path": "2_Dense"}]))
    shutil.copytree(folder / "1_Dense", folder / "2_Dense")
    edit(folder / "2_Dense" / "config.json", in_features=DIM, use_residual=True, bias=True)
    second, shift = torch.randn(DIM, DIM), torch.randn(DIM)
    save_file({"linear.weight": second, "linear.bias": shift}, folder / "2_Dense" / "model.safetensors")
    first = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    projection = read_layout(folder).projection
    torch.testing.assert_close(projection.weight, (second + torch.eye(DIM)) @ first)
    torch.testing.assert_close(projection.bias, shift)


def without_stanfords(folder: Path) -> None:
    weights = load_file(stanford(folder) / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def without_pylates_weights(folder: Path) -> None:
    (pylate(folder) / "1_Dense" / "model.safetensors").unlink()


def without_pylates_module(folder: Path) -> None:
    modules = json.loads((pylate(folder) / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


def without_bges(folder: Path) -> None:
    (bge(folder) / "colbert_linear.pt").unlink()


def without_ours(folder: Path) -> None:
    (ours("xlm-roberta", folder) / "projection.safetensors").unlink()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (without_stanfords, "linear.weight among its weights"),
        (without_pylates_weights, "1_Dense/model.safetensors"),
        (without_pylates_module, "the Dense in modules.json"),
        (without_bges, "colbert_linear.pt"),
        (without_ours, "projection.safetensors"),
    ],
)
def test_a_projection_that_is_missing_is_refused_by_name(tmp_path, make, named):
    make(tmp_path)
    with pytest.raises(HeadlessError, match="has no projection") as refused:
        read_layout(tmp_path, "ours")
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        ("1_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}, "the activation Tanh"),
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "Dense of sentence_embedding"),
        ("1_Dense/config.json", {"module_output_name": "other"}, "Dense of token_embeddings to other"),
        ("1_Dense/config.json", {"bias": True}, "linear.bias in 1_Dense, which its config.json tells of"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 10}}}, "processing_kwargs"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side in its tokenizer_config.json"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "lower case"),
        ("config_sentence_transformers.json", {"query_length": "long"}, "query_length = 'long'"),
        ("config_sentence_transformers.json", {"query_length": 0}, "query_length = 0"),
        ("config_sentence_transformers.json", {"query_prefix": ["[Q] "]}, "query_prefix = "),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts.query = 3"),
        ("config_sentence_transformers.json", {"skiplist_words": ".,"}, "skiplist_words = '.,'"),
        ("config_sentence_transformers.json", {"do_query_expansion": "no"}, "do_query_expansion = 'no'"),
        ("config_sentence_transformers.json", {"query_expansion": "fixed"}, "query_expansion = 'fixed'"),
        ("sentence_bert_config.json", {"max_seq_length": "512"}, "max_seq_length = '512'"),
        ("config.json", {"hidden_size": 48}, r"tell of \(16, 48\)"),
    ],
)
def test_a_layout_that_is_not_understood_is_refused(tmp_path, file, changes, sentence):
    edit(pylate(tmp_path) / file, **changes)
    with pytest.raises(RankerError, match=sentence):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"late_interaction": {"dim": DIM, "pooling": 2}}, "pooling, which this version does not know: update it"),
        ({"late_interaction": {"dim": DIM, "reduce": "max"}}, "reduce = 'max'"),
        ({"late_interaction": {"dim": DIM + 1}}, r"tell of \(17, 32\)"),
        ({"calibration": {"scale": -1.0}}, "scale = -1.0"),
        ({"calibration": {"scale": 1e30}}, "scale = 1e"),
        ({"calibration": []}, "calibration in its reranker.json with it = "),
        ({"family": "cross_encoder"}, "of the family cross_encoder"),
    ],
)
def test_settings_of_ours_that_do_not_do_are_refused(tmp_path, changes, sentence):
    edit(ours("xlm-roberta", tmp_path) / "reranker.json", **changes)
    with pytest.raises(RankerError, match=sentence):
        read_layout(tmp_path)


def test_a_transformer_that_is_not_whole_is_refused(tmp_path):
    folder = ours("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RankerError, match="lacks weights of its transformer"):
        load_encoder(read_layout(folder).source, dtype=torch.float32)


def test_only_late_interaction_is_laid_out_so(tmp_path):
    for name, make in {"stanford": stanford, "pylate": pylate, "bge": bge}.items():
        assert gives_token_vectors(make(tmp_path / name))
    transformer("bert", tmp_path / "bare")
    assert not gives_token_vectors(tmp_path / "bare")


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ("DMN", None),
        ("DNM", None),
        ("MDN", None),
        ("NDMN", "Normalize, Dense, MultiVectorMask, Normalize"),
        ("DNDMN", "in an order or a number"),
        ("NDM", "in an order or a number"),
        ("DMMN", "in an order or a number"),
        ("DM", "no Normalize"),
        ("DMS", "Normalize of sentence_embedding"),
    ],
)
def test_modules_in_an_order_that_means_something_else_are_refused(tmp_path, order, sentence):
    folder = pylate(tmp_path)
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "MultiVectorEncoder"}')
    kinds = {"D": "Dense", "M": "MultiVectorMask", "N": "Normalize", "S": "Normalize"}
    entries = json.loads((folder / "modules.json").read_text())[:1]
    for at, letter in enumerate(order, 1):
        path = "1_Dense" if letter == "D" else f"{at}_{kinds[letter]}"
        entries.append({"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.{kinds[letter]}"})
        if letter != "D":
            (folder / path).mkdir()
            config = {"module_input_name": "token_embeddings"} if letter == "N" else {}
            (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(entries))
    if sentence is None:
        assert read_layout(folder).settings.dim == DIM
        return
    with pytest.raises(RankerError, match=sentence):
        read_layout(folder)


def test_a_length_that_is_named_is_not_cut_to_a_usual_one(tmp_path):
    folder = pylate(tmp_path, document_length=None, query_length=None, do_query_expansion=False)
    edit(folder / "config.json", max_position_embeddings=1024)
    edit(folder / "sentence_bert_config.json", max_seq_length=800)
    settings = read_layout(folder).settings
    assert (settings.query_length, settings.document_length) == (800, 800)


@pytest.mark.parametrize("bias", [None, "x"])
def test_a_layer_of_bge_m3s_without_its_bias_is_refused(tmp_path, bias):
    folder = bge(tmp_path)
    linear = torch.load(folder / "colbert_linear.pt", weights_only=True)
    torch.save({"weight": linear["weight"]} | ({"bias": bias} if bias else {}), folder / "colbert_linear.pt")
    with pytest.raises(HeadlessError, match=r"bias in colbert_linear\.pt"):
        read_layout(folder)


def test_metadata_that_are_no_object_are_refused(tmp_path):
    (stanford(tmp_path) / "artifact.metadata").write_text("[]")
    with pytest.raises(RankerError, match=r"unreadable artifact\.metadata"):
        read_layout(tmp_path)


def test_a_projection_is_found_in_any_file_of_pickled_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("KO_RERANKER_ALLOW_BIN", "1")
    weights = load_file(stanford(tmp_path) / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    files = {key: f"pytorch_model-0000{1 + (key == 'linear.weight')}-of-00002.bin" for key in weights}
    for file in set(files.values()):
        torch.save({key: weights[key] for key in weights if files[key] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    projection = read_layout(tmp_path).projection
    torch.testing.assert_close(projection.weight, weights["linear.weight"])


def test_a_length_that_would_not_be_read_again_is_not_written(tmp_path):
    transformer("bert", tmp_path)
    with pytest.raises(ValueError, match="document_length is 3"):
        write_layout(tmp_path, LateInteractionSettings(dim=DIM, document_length=3), Projection(torch.randn(DIM, HIDDEN)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query_maxlen": 0}, "query_maxlen = 0"),
        ({"query_token_id": 5}, "query_token_id = 5"),
        ({"mask_punctuation": "no"}, "mask_punctuation = 'no'"),
    ],
)
def test_metadata_of_another_type_are_refused(tmp_path, changes, sentence):
    with pytest.raises(RankerError, match=sentence):
        read_layout(stanford(tmp_path, **changes))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e38])
def test_a_projection_that_makes_no_numbers_is_refused(tmp_path, weight):
    folder = pylate(tmp_path)
    save_file({"linear.weight": torch.full((DIM, HIDDEN), weight)}, folder / "1_Dense" / "model.safetensors")
    with pytest.raises(RankerError, match="not numbers"):
        read_layout(folder)
