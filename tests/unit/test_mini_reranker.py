"""The mini reranker: its build from a miniature of the data, and the packed form in which it ships."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from ko_reranker.data.jsonl import read_record_file, read_rows, write_jsonl
from ko_reranker.models import MINI_MODEL, resolve_model
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.samples.packed import MINI, pack, unpack
from ko_reranker.samples.paths import PHRASEBOOK, SAMPLE
from training_job.mini_reranker import asked, distil, stages
from training_job.mini_reranker.__main__ import main
from training_job.mini_reranker.corpus import Corpus, normalised, side_of
from training_job.mini_reranker.distil import DistilSettings
from training_job.mini_reranker.groups import Mixture, write_groups
from training_job.mini_reranker.kinds import KINDS
from training_job.mini_reranker.stages import Build
from training_job.mini_reranker.texts import told_sentences
from training_job.mini_reranker.vocabulary import build_tokenizer, build_vocabulary
from training_job.mini_reranker.wiring import wire_matching_heads

QUESTIONS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder of the layout that docs/mini_reranker.md describes, filled from the shipped sample."""
    folder = tmp_path_factory.mktemp("data")
    korean = {row["en"]: row["ko"] for row in read_rows(PHRASEBOOK)}
    records = list(read_record_file(SAMPLE))[: 4 * QUESTIONS]
    rows = [{"query": korean[record.query], "pos": [korean[record.positives[0]]], "neg": []} for record in records]
    for name in ("tydiqa_ko", "kobest_boolq", "docs_en_ko", "parallel_en_ko"):
        (folder / name).mkdir()
    write_jsonl(folder / "tydiqa_ko/train.jsonl", rows[:QUESTIONS])
    write_jsonl(folder / "kobest_boolq/train.jsonl", rows[QUESTIONS : 2 * QUESTIONS])
    write_jsonl(folder / "kobest_boolq/dev.jsonl", rows[2 * QUESTIONS : 3 * QUESTIONS])
    # Under names of their own: what has a name of the sample's is left out.
    pages = [record.to_json() | {"id": f"page-{place}"} for place, record in enumerate(records[3 * QUESTIONS :])]
    sample = [record.to_json() for record in records[:3]]
    write_jsonl(folder / "docs_en_ko/triplets.en.jsonl.gz", [*pages, *sample])
    write_jsonl(folder / "docs_en_ko/phrasebook.jsonl.gz", read_rows(PHRASEBOOK))
    lines = list(read_rows(PHRASEBOOK))
    write_jsonl(folder / "parallel_en_ko/cpp.jsonl.gz", lines[:600])
    write_jsonl(folder / "parallel_en_ko/libreoffice_help.jsonl.gz", lines[600:800])
    return folder


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> Path:
    """A random BERT with a WordPiece tokenizer in the place of the English encoder."""
    folder = tmp_path_factory.mktemp("english")
    words = [row["en"].lower().split() for row in read_rows(PHRASEBOOK)][:300]
    alphabet = [form for letter in map(chr, range(33, 127)) for form in (letter.lower(), f"##{letter.lower()}")]
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet])
    pieces |= dict.fromkeys(word for line in words for word in line if word.isalpha())
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    BertModel(_config(len(pieces))).save_pretrained(folder)
    return folder


def _config(pieces: int) -> BertConfig:
    return BertConfig(
        vocab_size=pieces, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=1
    )


@pytest.fixture(scope="module")
def small(data, english, tmp_path_factory) -> Build:
    """A build that has come as far as the groups."""
    build = Build(
        Corpus(data),
        english,
        tmp_path_factory.mktemp("build") / "work",
        pieces=8_000,
        lines=500,
        distillation=DistilSettings(
            steps=8,
            sizes=(("lines", 4), ("passages", 2), ("questions", 4), ("masked", 4)),
            shares=(("lines", 1), ("passages", 1), ("questions", 1), ("masked", 1)),
        ),
        mixture=Mixture(counts={"tydi": None, "kobest": None, "told": 10, "headings": 10, "stated": 5, "mixed": 5}),
        finetuning={"epochs": "0.2", "batch_queries": "4", "dev_queries": "4"},
        second_mixture=Mixture(counts={"tydi": None, "told": 10}, seed=1),
        second_finetuning={"epochs": "0.5", "batch_queries": "4", "dev_queries": "4", "learning_rate": "1e-3"},
        needle_lengths=(300,),
    )
    build.run("groups")
    return build


def test_the_build_makes_a_reranker_and_goes_on_where_it_stopped(small, capfd, monkeypatch) -> None:
    monkeypatch.setattr(stages, "usable_cores", lambda: 1)
    assert not (small.work / "finetuning").exists()
    small.run()
    assert "vocabulary: there already" in capfd.readouterr().out
    report = json.loads((small.work / "evaluation/tydi-held-out/report.json").read_text())
    assert set(report["rows"]) == {"none", "bm25-morphemes", "mini", "mini+bm25"}
    groups, judged = (json.loads((small.work / name / "done.json").read_text()) for name in ("groups", "evaluation"))
    assert set(groups["validation_kinds"]) == set(KINDS)
    assert {"tydi", "kobest", "told", "headings", "stated", "mixed"} <= set(groups)
    for name, sha256 in groups["validation_kinds"].items():
        assert judged.get(f"{name}-validation", {"sha256": sha256})["sha256"] == sha256
    assert 0 <= judged["needle"]["least"] <= judged["needle"]["won"]["300"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(small.work / "package/model")
    assert model.config.num_labels == 1
    ranker = load_ranker(small.work / "package/model")
    scores = ranker.score("함수란 무엇인가요?", ["함수는 값을 반환합니다.", "날씨가 좋습니다."])
    ranker.close()
    assert np.isfinite(scores).all()
    settings = json.loads((small.work / "package/packed/reranker.json").read_text())
    assert settings["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"

    second = small.work / "second_finetuning"
    weights = [load_file(second / name / "model/model.safetensors") for name in ("member-0", "member-1", ".")]
    for name, mean in weights[2].items():
        assert torch.allclose(mean, (weights[0][name] + weights[1][name]) / 2, atol=1e-6)
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    shares = [set((small.work / f"second_groups/member-{member}/train.jsonl").read_text().splitlines()) for member in (0, 1)]
    assert shares[0] and shares[1] and not shares[0] & shares[1]


class _ByLength:
    """Takes the longest passage for the most relevant."""

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        return [float(len(document)) for document in documents]


def test_negatives_of_the_second_round_are_those_that_the_model_takes_most_for_right(native, tmp_path) -> None:
    counts = write_groups(native, Mixture({"tydi": None, "altered": None}), tmp_path, _ByLength())
    assert counts["train"] == counts["tydi"] + counts["altered"]
    own = {(record.query, record.positives): record.negatives for record in asked.KINDS["altered"](native)}
    chosen = 0
    for record in read_record_file(tmp_path / "train.jsonl"):
        if brought := own.get((record.query, record.positives)):  # the hardest
            assert record.negatives[: len(brought)] == brought
            continue
        lengths = list(map(len, record.negatives))
        assert 0 < len(lengths) <= 10
        assert lengths[:6] == sorted(lengths, reverse=True)[:6]
        chosen += 1
    assert chosen == counts["tydi"]


NATIVE = (
    "서울(Seoul)은 대한민국의 수도이며, 한강이 지나는 가장 큰 도시로, 1394년에 조선의 도읍이 되었다. 궁궐이 다섯 개 남아 있다. "
    "경복궁은 1395년에 지어졌다. 오늘날 인구는 940만 명이고 해마다 많은 사람이 찾는다. 지하철은 1974년에 개통되었다. "
    "도시의 가운데에 남산이 있으며 그 위에 탑이 서 있다. 북쪽에는 북한산이 있고 오르는 사람이 많다. 시청 앞 광장은 넓다."
)


@pytest.fixture
def native(data, tmp_path) -> Corpus:
    """A corpus that has a native passage a train question is asked of, with its answer, and others like it."""
    folder = tmp_path / "native"
    shutil.copytree(data, folder)
    towns = ("부산", "인천", "대구", "광주", "대전", "울산", "세종", "수원", "춘천", "청주", "전주", "제주")
    texts = [NATIVE.replace("서울", town).replace("1394", str(1400 + index)) for index, town in enumerate(towns)]
    rows = [
        {"query": f"{town}은 {1400 + index}년에 무엇이 되었나요?", "pos": [text], "neg": [], "answer": "도읍"}
        for index, (town, text) in enumerate(zip(towns, texts, strict=True))
    ]
    rows.append({"query": "서울은 1394년에 무엇이 되었나요?", "pos": [NATIVE], "neg": [], "answer": "도읍"})
    write_jsonl(folder / "tydiqa_ko/train.jsonl", rows)
    return Corpus(folder)


def test_every_kind_of_question_is_made_of_the_training_side_and_alike_each_time(native) -> None:
    made = {kind: list(make(native)) for kind, make in asked.KINDS.items()}
    assert all(made.values()), {kind: len(records) for kind, records in made.items()}
    assert made == {kind: list(make(Corpus(native.folder))) for kind, make in asked.KINDS.items()}
    unseen = {record.positives[0] for side in ("validation", "held-out") for record in native.native(side)}
    assert unseen
    for records in made.values():
        assert all(record.query.strip() for record in records)
        assert not unseen & {text for record in records for text in record.passages()}


def test_kinds_ask_as_they_say(native) -> None:
    made = {kind: list(make(native)) for kind, make in asked.KINDS.items()}
    for record in made["stated"]:
        assert record.query in record.positives[0]
    for record in made["masked"]:
        assert record.query not in record.positives[0]
    towns = {record.query for record in made["titles"]}
    assert towns & {"부산", "인천", "대구", "광주", "대전", "울산"}
    for record in made["swapped"]:
        right = record.positives[0].split()
        for wrong in record.negatives:
            assert wrong != record.positives[0] and len(wrong.split()) == len(right)
    for record in made["altered"]:
        right = record.positives[0]
        numbers = set(re.findall(r"\d+", record.query)) & set(re.findall(r"\d+", right))
        assert numbers and len(set(record.negatives)) == len(record.negatives) >= 4
        for wrong in record.negatives:
            assert wrong != right and re.sub(r"\d", "#", wrong) == re.sub(r"\d", "#", right)
            assert not numbers <= set(re.findall(r"\d+", wrong))
    for record in made["reports"]:
        assert "도읍" in record.positives[0] and "940만" not in record.query
        assert len(record.positives[0]) < 1_500
    native_queries = {record.query for record in native.native("train")}
    assert any(record.query not in native_queries for record in made["typed"])


def test_training_and_validation_kinds_share_no_text_of_their_own(native) -> None:
    """What a rule writes itself, such as a header, would tell the model how validation documents look."""
    trained = "\n".join(record.positives[0] for record in asked.KINDS["reports"](native))
    judged = "\n".join(KINDS["long"](native).passages)
    words = ("문서번호", "보존기간", "제1항", "붙임", "무단 복제")
    assert all(word in judged and word not in trained for word in words)


def test_nothing_held_out_reaches_a_stage(small) -> None:
    corpus = small.corpus
    hidden = {normalised(record.positives[0]) for record in corpus.tydi["held-out"]}
    asked = {normalised(record.query) for record in corpus.tydi["held-out"]}
    assert hidden and asked
    for name in ("train", "dev"):
        for record in read_record_file(small.work / f"groups/{name}.jsonl"):
            assert normalised(record.query) not in asked
            assert not hidden & {normalised(text) for text in (*record.positives, *record.negatives)}
    assert not hidden & set(map(normalised, corpus.native_texts()))
    validation = {normalised(record.positives[0]) for record in corpus.native("validation")}
    assert not validation & set(map(normalised, corpus.native_texts()))


def test_distillation_goes_on_from_its_checkpoint_to_the_same_weights(small, tmp_path, monkeypatch) -> None:
    settings = replace(small.distillation, checkpoint_seconds=0.0)
    other = replace(small, work=tmp_path, distillation=settings)
    for stage in ("vocabulary", "embeddings"):
        shutil.copytree(small.work / stage, other.work / stage)
    with monkeypatch.context() as patch:
        patch.setattr(distil.Material, "batches", _cut_off_after(3, distil.Material.batches))
        with pytest.raises(KeyboardInterrupt):
            other.run("distillation")
    assert (other.work / "distillation/checkpoint.pt").is_file()
    other.run("distillation")
    one, two = (load_file(build.work / "distillation/model/model.safetensors") for build in (small, other))
    assert all(torch.equal(values, two[name]) for name, values in one.items())


def _cut_off_after(steps: int, batches):
    def some(material, first):
        yield from itertools.islice(batches(material, first), steps)
        raise KeyboardInterrupt

    return some


def test_a_side_depends_on_the_passage_alone() -> None:
    assert side_of("한국의  수도는 서울이다.") == side_of("한국의 수도는 서울이다.")
    sides = [side_of(f"문단 {number}") for number in range(2_000)]
    assert 300 < sides.count("held-out") < 500
    assert 100 < sides.count("validation") < 220
    assert "held-out" not in {side_of(f"문단 {number}", with_held_out=False) for number in range(200)}


def test_the_records_of_the_sample_are_left_to_the_local_stage(data) -> None:
    assert {record.id for record in Corpus(data).pages} == {f"page-{place}" for place in range(QUESTIONS)}


def test_pieces_are_morphemes_so_that_a_word_is_found_whatever_its_particle() -> None:
    texts = ["계급은 중요하다. 계급이 높다. 계급의 이름. 학교에서 계급을 배웠다."] * 20
    english = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "class": 2}, unk_token="[UNK]"))
    english.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces = build_vocabulary(texts, [], ["the class"], english, 8_000)
    tokenizer = build_tokenizer(pieces, 128)
    for particle in ("은", "이", "의", "을"):
        assert tokenizer.tokenize(f"계급{particle}") == ["계급", f"##{particle}"]
    # Decomposed Hangul, as macOS writes file names, is the same text.
    assert tokenizer.tokenize("계급은") == ["계급", "##은"]


def test_wired_heads_look_at_equal_pieces() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500, hidden_size=192, num_hidden_layers=1, num_attention_heads=6, intermediate_size=64, num_labels=1
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    model.embeddings.word_embeddings.weight.data.normal_()
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 500, 60).tolist() for _ in range(40)]
    # What the passage repeats: the last half of each text holds its first eighth.
    texts = [[*ids[:40], *ids[: len(ids) // 8]] for ids in texts]
    report = wire_matching_heads(model, texts)
    assert report["attention_to_equal_pieces"] > 0.6


def test_sentences_are_asked_against_the_rest_of_their_passage() -> None:
    passage = (
        "서울은 대한민국의 수도이며 가장 큰 도시이다. 한강이 도시의 가운데를 지난다. "
        "오래전부터 여러 나라의 수도였으며 지금도 그렇다. 조선의 왕궁이 다섯 개 남아 있고 많은 사람이 찾는다."
    )
    pairs = dict(told_sentences(passage))
    assert "한강이 도시의 가운데를 지난다." in pairs
    for sentence, rest in pairs.items():
        assert sentence in passage and sentence not in rest


def test_a_packed_model_is_a_quarter_and_scores_nearly_alike(tmp_path) -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(build_vocabulary(["계급은 높다."], [], ["class"], _no_english(), 8_000), 64)
    model = BertForSequenceClassification(_config(len(tokenizer))).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    pack(tmp_path / "model", tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "again")
    weights, packed = (tmp_path / "model/model.safetensors", tmp_path / "packed/model.int8.safetensors")
    assert packed.stat().st_size < weights.stat().st_size / 3
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    assert next(again.parameters()).dtype == torch.float32
    inputs = tokenizer(["계급은 높다."], return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, again(**inputs).logits, atol=1e-2)
    pack(tmp_path / "model", tmp_path / "twice")
    assert all((tmp_path / "twice" / file.name).read_bytes() == file.read_bytes() for file in (tmp_path / "packed").iterdir())


def _no_english() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def test_the_model_in_the_box_is_an_ordinary_one_and_ranks_what_it_has_not_seen() -> None:
    assert sum(file.stat().st_size for file in MINI.iterdir()) <= 25e6
    folder = resolve_model(MINI_MODEL)
    ranker = load_ranker(MINI_MODEL, EngineOptions(dtype="fp32"))
    korean = {row["en"]: row["ko"] for row in read_rows(PHRASEBOOK)}
    places = []
    for record in itertools.islice(read_record_file(SAMPLE), 100):
        documents = [korean[text] for text in (*record.positives[:1], *record.negatives)]
        logits = ranker.score(korean[record.query], documents)
        places.append(1 + int((logits > logits[0]).sum()))
    # Chance is .52: a heading, its paragraph, and three that stand nearby.
    assert np.mean(1 / np.array(places)) > 0.7

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.num_labels == 1
    query, document = "수도가 어디인가?", "서울은 대한민국의 수도이다."
    with torch.inference_mode():
        logit = model(**tokenizer(query, document, return_tensors="pt")).logits.item()
    assert ranker.score(query, [document])[0] == pytest.approx(logit, abs=1e-4)
    ranker.close()


def test_a_missing_file_is_named(tmp_path, english, capsys, monkeypatch) -> None:
    (tmp_path / "data").mkdir()
    arguments = ["--data", str(tmp_path / "data"), "--english", str(english), "--work", str(tmp_path / "work")]
    monkeypatch.setattr("sys.argv", ["mini_reranker", *arguments])
    assert main() == 1
    assert "cpp.jsonl.gz is missing: docs/mini_reranker.md" in capsys.readouterr().err
