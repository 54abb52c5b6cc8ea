"""The shipped sample: complete, small, and reproducible."""

from __future__ import annotations

import gzip
import json

import torch
from tokenizers import Tokenizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForSequenceClassification

from ko_reranker.data.jsonl import read_record_file
from ko_reranker.data.splits import split_of
from ko_reranker.samples import paths, tiny_model
from ko_reranker.samples.prune_tokenizer import prune


def _phrasebook() -> dict[str, str]:
    with gzip.open(paths.PHRASEBOOK, "rt", encoding="utf-8") as stream:
        return {row["en"]: row["ko"] for row in map(json.loads, stream)}


def test_the_phrasebook_translates_every_text_of_the_sample() -> None:
    texts = {text for record in read_record_file(paths.SAMPLE) for text in record.texts()}
    assert texts == _phrasebook().keys()


def test_a_quarter_of_the_sample_is_enough_to_judge_by() -> None:
    splits = [split_of(record.query, 0.25) for record in read_record_file(paths.SAMPLE)]
    assert splits.count("dev") >= 100


def test_the_tokenizer_is_small_and_reads_korean_without_gaps() -> None:
    tokenizer = tiny_model.load_tokenizer()
    assert len(tokenizer) <= 32_000
    texts = list(_phrasebook().values())
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in tokenizer(texts, verbose=False)["input_ids"])
    assert unknown <= len(texts) // 100


def test_pruning_leaves_the_corpus_segmented_as_before() -> None:
    with gzip.open(paths.TOKENIZER, "rt", encoding="utf-8") as stream:
        full = json.load(stream)
    corpus = list(_phrasebook().values())[:200]
    before, after = (Tokenizer.from_str(json.dumps(file)) for file in (full, prune(full, corpus, 12_000)))
    assert after.get_vocab_size() < before.get_vocab_size()
    assert all(before.encode(text).tokens == after.encode(text).tokens for text in corpus)
    assert after.encode("질문", "답").tokens[0] == "<s>"


def test_one_seed_gives_one_model_and_another_seed_another() -> None:
    one, same, other = (tiny_model.build_model(500, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classifier.out_proj.weight"], other["classifier.out_proj.weight"])


def test_building_a_model_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    tiny_model.build_model(100, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_every_worker_of_a_run_can_write_the_model(tmp_path) -> None:
    """`save_pretrained` of `transformers` writes no weights on ranks other than 0, and hosts share no folder."""
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        folder = tiny_model.build(tmp_path)
    finally:
        torch.distributed.destroy_process_group()
    built = tiny_model.build_model(len(tiny_model.load_tokenizer()), seed=0)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(loaded) is type(built)
    for name, weight in built.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)
