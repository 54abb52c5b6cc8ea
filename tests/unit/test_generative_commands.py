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

from ko_reranker.commands.evaluate import print_report
from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.comparison import golden_queries
from ko_reranker.evaluation.evaluate import EvaluationError, EvaluationSettings, evaluate
from ko_reranker.evaluation.questions import TestSet, read_test_set
from ko_reranker.evaluation.report import render_report
from ko_reranker.models import model_digest
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.prompts import shipped_prompts
from training_job.mine import MiningSettings, mine, mine_records

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


def test_families_stand_side_by_side_with_what_they_give_and_take(folder, test_set, capsys):
    models = {"cross": "sample:tiny", "point": str(folder), "set": str(folder)}
    settings = EvaluationSettings(
        models, candidates=5, engine=CPU, prompts={"set": "setwise-ko"}, top_n=2, usd_per_hour=6.0, fuse=0.5
    )
    report, rows, _ = evaluate(test_set, settings)
    assert report["kinds"] == {
        "cross": "cross-encoder",
        "point": "generative, pointwise",
        "set": "generative, setwise",
        "cross+bm25": "cross-encoder and BM25",
        "point+bm25": "generative, pointwise and BM25",
        "set+bm25": "generative, setwise and BM25",
    }
    assert (rows["point"].absolute, rows["set"].absolute) == (True, False)
    figures = report["rows"]
    assert figures["point"]["calls_per_query"] == 5 and 1 <= figures["set"]["calls_per_query"] <= 3
    assert figures["set"]["usd_per_1000"] == pytest.approx(figures["set"]["minutes_per_1000"] / 10, abs=1e-3)
    assert "usd_per_1000" not in figures["none"]
    capsys.readouterr()
    print_report(report)
    said = capsys.readouterr().out
    assert "generative, setwise" in said and "US$/1,000 queries" in said and "calls/query" in said
    page = render_report(report)
    assert "Side by side" in page and page.count("<svg") == 5


def test_golden_queries_of_a_model_that_compares_are_orders(folder, test_set):
    settings = EvaluationSettings(
        {"candidate": str(folder)}, candidates=4, max_queries=2, engine=CPU, prompts={"candidate": "setwise-ko"}
    )
    _, rows, sets = evaluate(test_set, settings)
    golden = golden_queries(rows, sets)["queries"][0]
    assert golden["absolute"] is False
    assert sorted(golden["scores"]) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("models", "prompts", "message"),
    [
        ({"one": "sample:tiny"}, {"other": "setwise-ko"}, "a prompt for other, and no model of that name"),
        ({"one": "sample:tiny"}, {"one": "setwise-ko"}, "The one model: sample:tiny is no generative reranker"),
        ({"one": "bm25:morphemes"}, {"one": "setwise-ko"}, "a prompt for one, which is no model"),
    ],
)
def test_a_prompt_for_what_reads_none_is_refused(test_set, models, prompts, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(test_set, EvaluationSettings(models, candidates=5, engine=CPU, prompts=prompts))


def test_models_that_differ_in_their_prompt_alone_are_two_models(folder, test_set, tmp_path):
    other = shutil.copytree(folder, tmp_path / folder.name)
    (other / "prompt.yaml").write_text(shipped_prompts()["general-ko"], encoding="utf-8")
    assert model_digest(other) != model_digest(folder)
    _, rows, _ = evaluate(test_set, EvaluationSettings({"one": str(folder), "other": str(other)}, candidates=5, engine=CPU))
    assert not np.allclose(np.concatenate(rows["one"].scores), np.concatenate(rows["other"].scores))


def test_a_model_that_compares_is_no_teacher(folder, tmp_path):
    teacher = shutil.copytree(folder, tmp_path / "teacher")
    (teacher / "reranker.json").write_text('{"family": "generative", "generative": {"prompt": "setwise-ko"}}')
    with pytest.raises(JobError, match="gives no scores, only their order"):
        mine(ProcessingFolders(tmp_path), MiningSettings(teacher=str(teacher)), device="cpu")


def test_it_teaches_which_negatives_are_hard(folder, records):
    teacher = load_ranker(folder, CPU)
    counts: Counter[str] = Counter()
    mined = list(mine_records(records, MiningSettings(negatives=2, rank_from=1, rank_to=4, max_overlap=1.0), counts, teacher))
    wanted = teacher.score(records[0].query, records[0].positives)
    teacher.close()
    np.testing.assert_allclose(mined[0].positive_scores, wanted, atol=1e-4)
    assert all(len(record.negatives) == len(record.negative_scores or ()) for record in mined)
