"""A generative reranker in the commands that score with any ranker: evaluation, golden queries, mining's teacher."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from generative_models import decoder, qwen_tokenizer, saved, shape
from transformers import Qwen3Config

from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.comparison import golden_queries
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate
from ko_reranker.evaluation.questions import TestSet, read_test_set
from ko_reranker.models import model_digest
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.prompts import shipped_prompts
from training_job.mine import MiningSettings, mine_records

TOPICS = ["서울 인구", "부산 항구", "한국 도시"]
CPU = EngineOptions(device="cpu", workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = decoder(Qwen3Config(**shape(qwen_tokenizer()), head_dim=16))
    return saved(tmp_path_factory.mktemp("models") / "Qwen3-Reranker-0.6B", model, qwen_tokenizer())


@pytest.fixture
def records() -> list[TrainingRecord]:
    return [
        TrainingRecord(f"{topic} {number}은?", (f"{topic}에 대한 {number}번째 설명이다.",), (f"다른 {topic} {number}",))
        for topic in TOPICS
        for number in range(2)
    ]


@pytest.fixture
def test_set(records: list[TrainingRecord], tmp_path: Path) -> TestSet:
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(record.to_json()) for record in records))
    return read_test_set([tmp_path / "dev.jsonl"])


def test_it_is_evaluated_beside_others_as_it_is_served(folder, test_set):
    settings = EvaluationSettings({"candidate": str(folder), "base": "sample:tiny"}, candidates=5, engine=CPU)
    report, rows, sets = evaluate(test_set, settings)
    assert set(report["rows"]) == {"none", "candidate", "base"}
    golden = golden_queries(rows, sets)["queries"][0]
    ranker = load_ranker(folder, CPU)
    logits = ranker.score(golden["query"], golden["documents"])
    ranker.close()
    np.testing.assert_allclose(golden["scores"], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_models_that_differ_in_their_prompt_alone_are_two_models(folder, test_set, tmp_path):
    other = shutil.copytree(folder, tmp_path / folder.name)
    (other / "prompt.yaml").write_text(shipped_prompts()["general-ko"], encoding="utf-8")
    assert model_digest(other) != model_digest(folder)
    _, rows, _ = evaluate(test_set, EvaluationSettings({"one": str(folder), "other": str(other)}, candidates=5, engine=CPU))
    assert not np.allclose(np.concatenate(rows["one"].scores), np.concatenate(rows["other"].scores))


def test_it_teaches_which_negatives_are_hard(folder, records):
    teacher = load_ranker(folder, CPU)
    counts: Counter[str] = Counter()
    mined = list(mine_records(records, MiningSettings(negatives=2, rank_from=1, rank_to=4, max_overlap=1.0), counts, teacher))
    wanted = teacher.score(records[0].query, records[0].positives)
    teacher.close()
    np.testing.assert_allclose(mined[0].positive_scores, wanted, atol=1e-4)
    assert all(len(record.negatives) == len(record.negative_scores or ()) for record in mined)
