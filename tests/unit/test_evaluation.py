"""The judge: metrics by hand, fixed candidates, paired intervals, and the files of the job."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.bm25 import MorphemeBm25
from ko_reranker.evaluation.candidates import candidate_sets
from ko_reranker.evaluation.metrics import bootstrap_interval, query_metrics
from training_job.evaluate import EvaluationSettings, evaluate

RECORDS = [
    TrainingRecord(f"{name} 사용하는 방법", (f"{name} 사용하려면 도구를 설치합니다.",), (f"{name} 제거하면 창이 닫힙니다.",))
    for name in ("컴파일러를", "디버거를", "링커를", "편집기를", "어셈블러를", "프로파일러를", "라이브러리를", "템플릿을")
]


def test_metrics_of_one_right_document_on_rank_three() -> None:
    metrics = query_metrics([0.1, 0.9, 0.5, 0.7], {2})
    assert metrics["mrr"] == metrics["mrr@10"] == pytest.approx(1 / 3)
    assert metrics["ndcg@10"] == pytest.approx(1 / math.log2(4))
    assert (metrics["has_right@1"], metrics["has_right@3"], metrics["recall@10"]) == (0.0, 1.0, 1.0)


def test_metrics_of_two_right_documents_one_of_them_far_down() -> None:
    metrics = query_metrics([-float(rank) for rank in range(20)], {1, 14})
    assert metrics["mrr"] == 0.5
    assert metrics["recall@10"] == 0.5
    assert metrics["ndcg@10"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


def test_beyond_rank_ten_only_mrr_counts() -> None:
    metrics = query_metrics([-float(rank) for rank in range(20)], {11})
    assert metrics["mrr"] == pytest.approx(1 / 12)
    assert metrics["mrr@10"] == metrics["ndcg@10"] == metrics["recall@10"] == 0.0


def test_a_score_that_is_no_number_is_no_rank() -> None:
    with pytest.raises(ValueError, match="not a number"):
        query_metrics([1.0, math.nan], {0})


def test_candidates_are_the_same_for_the_same_seed_and_hold_the_right_ones() -> None:
    first, again, other = (candidate_sets(RECORDS, 6, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    for record, item in zip(RECORDS, first, strict=True):
        assert len(set(item.documents)) == len(item.documents) == 6
        assert {item.documents[index] for index in item.positives} == set(record.positives)
        assert set(record.negatives) <= set(item.documents)


def test_a_ranker_that_ties_everything_gets_what_chance_gives() -> None:
    sets = candidate_sets([TrainingRecord(f"질문 {i}", (f"답 {i}",), ()) for i in range(400)], 10, 0)
    mean = np.mean([query_metrics([0.0] * len(item.documents), item.positives)["mrr"] for item in sets])
    assert mean == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10, abs=0.04)


def test_a_paired_interval_is_reproducible_and_holds_its_mean() -> None:
    differences = np.random.default_rng(0).normal(0.1, 0.3, 200)
    interval = bootstrap_interval(differences, seed=0)
    assert interval == bootstrap_interval(differences, seed=0)
    assert interval.mean == pytest.approx(differences.mean())
    assert interval.low < interval.mean < interval.high
    half_width = 1.96 * differences.std() / math.sqrt(200)
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.15)


def test_differences_that_do_not_vary_have_an_interval_without_width() -> None:
    interval = bootstrap_interval([0.0] * 10, seed=0)
    assert (interval.low, interval.mean, interval.high) == (0.0, 0.0, 0.0)


def test_bm25_sees_through_korean_particles_and_endings() -> None:
    bm25 = MorphemeBm25(["디버거로 중단점을 설정했습니다", "편집기에서 글꼴을 바꿉니다"])
    scores = bm25.score("중단점 설정하기", ["편집기에서 글꼴을 바꿉니다", "디버거로 중단점을 설정했습니다"])
    assert scores[1] > scores[0] == 0
    assert bm25.score("??", ["편집기에서 글꼴을 바꿉니다"]).tolist() == [0]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folders = ProcessingFolders(tmp_path_factory.mktemp("evaluate"))
    folders.dataset.mkdir(parents=True)
    lines = [json.dumps(record.to_json(), ensure_ascii=False) for record in RECORDS]
    (folders.dataset / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    metrics = evaluate(folders, EvaluationSettings("sample:tiny", "sample:tiny", None, 6, 0))
    return folders, metrics


def test_a_model_does_not_differ_from_itself(job) -> None:
    _, metrics = job
    assert metrics["differences"]["candidate-base"]["mrr"] == {"mean": 0, "low": 0, "high": 0, "confidence": 0.95}
    assert set(metrics["rows"]) == {"none", "base", "candidate"}
    assert metrics["queries"] == len(RECORDS)
    assert metrics["candidates_per_query"] == 6


def test_the_job_leaves_metrics_golden_queries_and_a_page_that_stands_alone(job) -> None:
    folders, metrics = job
    assert json.loads((folders.output / "metrics.json").read_text(encoding="utf-8")) == metrics
    golden = json.loads((folders.output / "golden.json").read_text(encoding="utf-8"))["queries"]
    assert len(golden) == 5
    assert all(len(item["scores"]) == len(item["documents"]) == 6 for item in golden)
    assert all(0 < score < 1 for item in golden for score in item["scores"])
    page = (folders.output / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and "</html>" in page and "candidate-none" in page
    assert "<script" not in page and 'src="http' not in page


def test_a_model_that_cannot_be_had_is_named(tmp_path, job) -> None:
    folders, _ = job
    with pytest.raises(JobError, match="The candidate model"):
        evaluate(folders, EvaluationSettings("/nowhere", "sample:tiny", None, 6, 0))
