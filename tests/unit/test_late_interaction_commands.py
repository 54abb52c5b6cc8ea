"""A late-interaction model in the commands that score with any ranker: evaluation, golden queries, mining's teacher."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from late_interaction_models import ours, stanford
from safetensors.torch import save_file

from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.comparison import golden_queries
from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate
from ko_reranker.evaluation.questions import read_test_set
from ko_reranker.rankers import EngineOptions, load_ranker
from training_job.mine import MiningSettings, mine_records

TOPICS = ["서울 인구", "부산 항구", "한국 도시", "강 바다"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ours("xlm-roberta", tmp_path_factory.mktemp("model"))


@pytest.fixture
def records() -> list[TrainingRecord]:
    return [
        TrainingRecord(
            f"{topic} {number}은 무엇인가?", (f"{topic}에 대한 {number}번째 설명이다.",), (f"다른 {topic} {number}",)
        )
        for topic in TOPICS
        for number in range(3)
    ]


def test_it_is_evaluated_as_it_is_served_and_its_golden_queries_are_its_scores(folder, records, tmp_path):
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(record.to_json()) for record in records))
    test_set = read_test_set([tmp_path / "dev.jsonl"])
    settings = EvaluationSettings({"candidate": str(folder), "base": "sample:tiny"}, candidates=5)
    report, rows, sets = evaluate(test_set, settings)
    assert set(report["rows"]) == {"none", "candidate", "base"}
    golden = golden_queries(rows, sets)["queries"][0]
    ranker = load_ranker(folder)
    logits = ranker.score(golden["query"], golden["documents"])
    ranker.close()
    np.testing.assert_allclose(golden["scores"], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_models_that_differ_in_their_projection_or_rules_are_two_models(tmp_path, records):
    (tmp_path / "dev.jsonl").write_text("\n".join(json.dumps(record.to_json()) for record in records))
    test_set = read_test_set([tmp_path / "dev.jsonl"])
    one = stanford(tmp_path / "one")
    other = shutil.copytree(one, tmp_path / "other")
    told = json.loads((other / "artifact.metadata").read_text())
    (other / "artifact.metadata").write_text(json.dumps(told | {"query_maxlen": 4, "mask_punctuation": False}))
    _, rows, _ = evaluate(test_set, EvaluationSettings({"one": str(one), "other": str(other)}, candidates=5))
    assert not np.allclose(np.concatenate(rows["one"].scores), np.concatenate(rows["other"].scores))


def test_it_teaches_which_negatives_are_hard(folder, records):
    teacher = load_ranker(folder)
    counts: Counter[str] = Counter()
    mined = list(mine_records(records, MiningSettings(negatives=2, rank_from=1, rank_to=8, max_overlap=1.0), counts, teacher))
    wanted = teacher.score(records[0].query, records[0].positives)
    teacher.close()
    np.testing.assert_allclose(mined[0].positive_scores, wanted, atol=1e-4)
    assert all(len(record.negatives) == len(record.negative_scores or ()) for record in mined)


@pytest.mark.usefixtures("int8")
def test_in_int8_it_ranks_almost_alike(tmp_path):
    folder = ours("xlm-roberta", tmp_path)
    save_file({"weight": torch.eye(16, 32)}, folder / "projection.safetensors")
    documents = [" ".join(TOPICS[number % 4 :] + [str(number)] * (number % 5)) for number in range(20)]
    scores = {}
    for dtype in ("fp32", "int8"):
        ranker = load_ranker(folder, EngineOptions(**asdict(EngineOptions()) | {"dtype": dtype}))
        scores[dtype], precision = ranker.score(TOPICS[0], documents), ranker.precision
        ranker.close()
    assert precision == "int8"
    assert np.corrcoef(scores["fp32"], scores["int8"])[0, 1] > 0.99
