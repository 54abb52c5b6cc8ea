"""Which family a model is of is told by its folder, and a family is one line of a table and a class that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stub_ranker import StubRanker

from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.cross_encoder import CrossEncoder
from ko_reranker.rankers.loading import FAMILIES, Family, family_of


class Stub(StubRanker):
    """A family whose models are files of a name of their own."""

    @classmethod
    def load(cls, folder: Path, options: EngineOptions, *, model_id: str, **about: object) -> Stub:
        ranker = cls()
        ranker.model_id, ranker.max_length = model_id, options.max_length or cls.max_length
        return ranker


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    family = Family(f"{__name__}:Stub.load", lambda folder: (folder / "stub.json").is_file(), ("ForStubs",))
    monkeypatch.setitem(FAMILIES, "stub", family)


def model(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("files", "family"),
    [
        ({"reranker": {"family": "stub"}, "config": {"architectures": ["BertForSequenceClassification"]}}, "stub"),
        ({"reranker": {"family": "cross_encoder"}, "stub": {}, "config": {"architectures": ["BertForStubs"]}}, "cross_encoder"),
        ({"reranker": {"max_length": 64}, "stub": {}, "config": {"architectures": ["BertForSequenceClassification"]}}, "stub"),
        (
            {"config_sentence_transformers": {"model_type": "CrossEncoder"}, "config": {"architectures": ["BertForStubs"]}},
            "cross_encoder",
        ),
        ({"config": {"architectures": ["BertForStubs"]}}, "stub"),
        ({"config": {"architectures": ["BertForSequenceClassification"]}}, "cross_encoder"),
        ({"config": {"architectures": ["BertModel"]}}, "cross_encoder"),
        ({}, "cross_encoder"),
    ],
)
def test_what_the_folder_says_comes_before_its_layout_and_that_before_its_architecture(tmp_path, files, family):
    assert family_of(model(tmp_path, **files), "it") == family


def test_a_family_loads_its_own_models(tmp_path):
    ranker = load_ranker(model(tmp_path, config={}, reranker={"family": "stub"}), EngineOptions(max_length=7), name="ours")
    assert (type(ranker).__name__, ranker.model_id, ranker.max_length) == ("Stub", "ours", 7)
    ranker.close()
    assert isinstance(load_ranker("sample:tiny"), CrossEncoder)


@pytest.mark.parametrize("family", ["colbert", ["stub"], None])
def test_an_unknown_family_is_an_error_that_says_what_to_write(tmp_path, family):
    with pytest.raises(RankerError, match="write one of these there") as refused:
        load_ranker(model(tmp_path, config={}, reranker={"family": family}), name="ours")
    assert "ours" in str(refused.value) and "cross_encoder, late_interaction, generative, stub" in str(refused.value)
