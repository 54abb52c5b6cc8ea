"""The judge: metrics by hand, fixed candidates, paired intervals, and the files of the job."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kiwipiepy import Kiwi
from scipy import stats
from transformers import AutoModel

from ko_reranker.commands.evaluate import print_report
from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.jsonl import read_record_file, read_rows, write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation import plots
from ko_reranker.evaluation.bm25 import Bm25
from ko_reranker.evaluation.candidates import CandidateSet, candidate_sets
from ko_reranker.evaluation.comparison import Ranking, first_stage_row, fused_row, row_of, run_row
from ko_reranker.evaluation.evaluate import EvaluationError, EvaluationSettings, evaluate, model_identity
from ko_reranker.evaluation.metrics import METRICS, bootstrap_intervals, ranking_metrics
from ko_reranker.evaluation.questions import Question, TestSet, TestSetError, read_test_set
from ko_reranker.fusion import fuse
from ko_reranker.languages import KOREAN
from ko_reranker.models import resolve_model
from ko_reranker.rankers import EngineOptions, Ranker, load_ranker
from ko_reranker.retraining.gate import decide
from ko_reranker.samples import paths
from ko_reranker.settings import load_settings
from training_job.evaluate import evaluate_job, job_models

PASSAGES = [f"{name} 사용하려면 도구를 설치합니다." for name in ("컴파일러를", "디버거를", "링커를", "편집기를", "어셈블러를")]
TEST_SET = TestSet(
    [Question(f"{passage.split()[0]} 사용하는 방법", {passage: 1}, "docs", (passage, PASSAGES[0])) for passage in PASSAGES],
    PASSAGES,
)


def metrics(scores: list[float], relevance: list[int], missed: tuple[int, ...] = ()) -> dict[str, float]:
    found = ranking_metrics([scores], [relevance], [missed])
    assert tuple(found) == METRICS
    return {name: float(values[0]) for name, values in found.items()}


# ---------------------------------------------------------------- metrics against their closed forms


def test_metrics_of_one_right_document_on_rank_three() -> None:
    found = metrics([0.1, 0.9, 0.5, 0.7], [0, 0, 1, 0])
    assert found["mrr"] == found["mrr@10"] == pytest.approx(1 / 3)
    assert found["ndcg@10"] == pytest.approx(1 / math.log2(4))
    assert [found[f"has_right@{k}"] for k in (1, 2, 3, 5, 10)] == [0, 0, 1, 1, 1]
    assert (found["recall@5"], found["recall@20"]) == (1, 1)


@pytest.mark.parametrize("ranks", [*itertools.combinations(range(1, 13), 2), (1,), (11,), (12,), (1, 2, 3)])
def test_metrics_agree_with_their_formulas_wherever_the_right_ones_stand(ranks: tuple[int, ...]) -> None:
    found = metrics([-float(place) for place in range(12)], [int(place + 1 in ranks) for place in range(12)])
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10)
    assert found["mrr"] == pytest.approx(1 / ranks[0])
    assert found["mrr@10"] == pytest.approx(1 / ranks[0] if ranks[0] <= 10 else 0)
    assert found["ndcg@10"] == pytest.approx(gain / sum(1 / math.log2(rank + 2) for rank in range(len(ranks))))
    for k in (5, 10, 20):
        assert found[f"recall@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
    for k in (1, 2, 3, 5, 10):
        assert found[f"has_right@{k}"] == float(ranks[0] <= k)


def test_a_better_document_gains_more() -> None:
    found = metrics([3.0, 2.0, 1.0], [1, 3, 0])
    ideal = 3 + 1 / math.log2(3)
    assert found["ndcg@10"] == pytest.approx((1 + 3 / math.log2(3)) / ideal)


def test_what_the_first_stage_missed_counts_against_every_ranker() -> None:
    found = metrics([1.0, 0.5], [1, 0], missed=(1,))
    assert (found["recall@20"], found["mrr"]) == (0.5, 1)
    assert metrics([], [], missed=(1,)) == dict.fromkeys(METRICS, 0.0)


def test_ties_keep_the_order_of_the_documents() -> None:
    assert [metrics([0.0] * 12, [int(place == right) for place in range(12)])["mrr"] for right in range(12)] == pytest.approx(
        [1 / rank for rank in range(1, 13)]
    )


def test_a_score_that_is_no_number_is_no_rank() -> None:
    with pytest.raises(ValueError, match="not a number"):
        metrics([1.0, math.nan], [1, 0])


# ---------------------------------------------------------------- intervals


def test_paired_intervals_agree_with_scipys_bootstrap() -> None:
    differences = np.random.default_rng(0).normal(0.1, 0.3, 200)
    found = bootstrap_intervals({"a": differences, "b": -differences}, seed=0)
    assert found == bootstrap_intervals({"a": differences, "b": -differences}, seed=0)
    expected = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found["a"].mean == pytest.approx(differences.mean())
    assert (found["a"].low, found["a"].high) == pytest.approx((expected.low, expected.high), abs=0.005)
    # The same resamples for every key: what is paired stays paired.
    assert (found["b"].low, found["b"].high) == pytest.approx((-found["a"].high, -found["a"].low))


def test_what_does_not_vary_has_an_interval_without_width() -> None:
    for sample in (np.zeros(10), np.array([0.25])):
        interval = bootstrap_intervals({"x": sample}, seed=0)["x"]
        assert interval.low == interval.mean == interval.high == sample[0]


# ---------------------------------------------------------------- first stage and candidates


def test_bm25_sees_through_korean_particles_and_endings() -> None:
    for terms in ("morphemes", "morphemes+bigrams"):
        bm25 = Bm25(["디버거로 중단점을 설정했습니다", "편집기에서 글꼴을 바꿉니다"], terms=terms)
        scores = bm25.score("중단점 설정하기", ["편집기에서 글꼴을 바꿉니다", "디버거로 중단점을 설정했습니다"])
        assert scores[1] > scores[0] == 0
        assert bm25.score("??", ["편집기에서 글꼴을 바꿉니다"]).tolist() == [0]


def test_bm25_does_not_mind_how_a_syllable_is_spelt() -> None:
    for terms in ("morphemes", "morphemes+bigrams"):
        bm25 = Bm25([unicodedata.normalize("NFD", "디버거로 중단점을 설정했습니다"), "편집기"], terms=terms)
        (found,) = bm25.best(["중단점 설정"], 5)
        assert found.tolist() == [0]


def test_character_pairs_find_a_name_that_is_written_apart_in_one_place() -> None:
    corpus = ["트랜스포머스핀오프 일정", "다른 이야기"]
    bm25 = Bm25(corpus, terms="morphemes+bigrams")
    (found,) = bm25.best(["랜스포머"], 5)
    assert found.tolist() == [0]
    assert bm25.score("머스", corpus)[0] > 0


def test_candidates_are_the_same_for_the_same_seed_and_in_an_order_that_gives_nothing_away() -> None:
    first, again, other = (candidate_sets(TEST_SET, "morphemes", 4, seed) for seed in (0, 0, 1))
    assert [item.documents for item in first] == [item.documents for item in again]
    assert [item.documents for item in first] != [item.documents for item in other]
    for item in first:
        assert len(set(item.documents)) == len(item.documents) <= 4
        assert [PASSAGES.index(item.documents[place]) for place in item.positives] == [
            next(index for index, passage in enumerate(PASSAGES) if item.query.split()[0] in passage)
        ]
    assert {min(item.positives) for item in first} != {0}


def test_a_right_passage_that_the_first_stage_does_not_find_is_missed_not_added() -> None:
    test_set = TestSet([Question("링커", {"전혀 다른 이야기": 1}, "docs")], ["링커를 설치합니다.", "전혀 다른 이야기"])
    (item,) = candidate_sets(test_set, "morphemes", 10, 0)
    assert (item.documents, item.positives, item.missed) == (("링커를 설치합니다.",), frozenset(), (1,))


def test_given_candidates_are_ranked_by_bm25_when_they_have_no_scores() -> None:
    for question, item in zip(TEST_SET.questions, candidate_sets(TEST_SET, "given", 50, 0), strict=True):
        assert set(item.documents) == set(question.candidates)
        assert first_stage_row([item]).metrics["mrr"][0] == 1


def test_candidates_that_come_with_scores_keep_the_best() -> None:
    question = Question("질문", {"나": 1, "다": 1}, "x", ("가", "나", "다"), (3.0, 2.0, 1.0))
    (item,) = candidate_sets(TestSet([question], ["가", "나", "다"]), "morphemes", 2, 0)
    assert dict(zip(item.documents, item.first_stage, strict=True)) == {"가": 3.0, "나": 2.0}
    assert item.missed == (1,)


def test_given_candidates_that_are_not_there_are_an_error() -> None:
    with pytest.raises(TestSetError, match="shop gives no candidates"):
        candidate_sets(TestSet([Question("질문", {"답": 1}, "shop")], ["답"]), "given", 5, 0)


def sets_of(count: int) -> list[CandidateSet]:
    documents = tuple(f"문서 {place}" for place in range(10))
    questions = [Question(f"질문 {number}", {"문서 3": 1}, "x", documents, (0.0,) * 10) for number in range(count)]
    return candidate_sets(TestSet(questions, list(documents)), "given", 10, 0)


def test_a_ranker_that_ties_everything_gets_what_chance_gives() -> None:
    sets = sets_of(400)
    row = row_of([np.zeros(10) for _ in sets], sets)
    assert row.metrics["mrr"].mean() == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 10, abs=0.04)


# ---------------------------------------------------------------- rows


def test_a_row_has_latency_and_tokens_and_the_progress_of_its_queries() -> None:
    sets, done = sets_of(3), []
    ranking = lambda query, documents: Ranking(np.arange(len(documents)), 7 * len(documents), len(documents))  # noqa: E731
    row = run_row(ranking, sets, done.append)
    assert done == [1, 2, 3]
    figures = row.to_json()
    assert 0 < figures["latency_ms_p50"] <= figures["latency_ms_p95"]
    assert figures["tokens_per_second"] > 0
    assert (row.tokens, figures["tokens_per_query"], figures["calls_per_query"]) == (210, 70, 10)
    assert figures["minutes_per_1000"] == pytest.approx(float(row.seconds.mean()) * 1_000 / 60, abs=1e-3)
    assert "latency_ms_p50" not in first_stage_row(sets).to_json()


def test_a_fused_row_is_ranked_by_both_scores() -> None:
    sets = candidate_sets(TEST_SET, "morphemes", 4, 0)
    wrong = run_row(lambda query, documents: Ranking(-np.arange(len(documents), dtype=np.float32), 1), sets)
    fused = fused_row(wrong, sets, 0.9)
    for item, scores, given in zip(sets, fused.scores, wrong.scores, strict=True):
        assert scores.tolist() == fuse(item.first_stage, given, weight=0.9)
    assert fused.metrics["mrr"].mean() > wrong.metrics["mrr"].mean()


# ---------------------------------------------------------------- the job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    """Real Korean records of the sample; the tiny model, which nobody has trained, against itself."""
    folders = ProcessingFolders(tmp_path_factory.mktemp("evaluate"))
    folders.dataset.mkdir(parents=True)
    korean = {row["en"]: row["ko"] for row in read_rows(paths.PHRASEBOOK)}
    records = [
        TrainingRecord(korean[one.query], tuple(map(korean.__getitem__, one.positives)), extra={"source": f"part {number % 2}"})
        for number, one in enumerate(itertools.islice(read_record_file(paths.SAMPLE), 80))
    ]
    write_jsonl(folders.dataset / "dev.jsonl", (record.to_json() for record in records))
    (folders.dataset / "manifest.json").write_text("{}", encoding="utf-8")
    settings = EvaluationSettings(job_models("sample:tiny", "sample:tiny", None), candidates=10, fuse=0.5)
    return folders, evaluate_job(folders, settings)


def test_no_model_takes_the_name_of_a_row_of_both_scores() -> None:
    models = {"mini": "sample:tiny", "mini+bm25": "bm25:morphemes"}
    with pytest.raises(EvaluationError, match=r"may be called mini\+bm25"):
        evaluate(TEST_SET, EvaluationSettings(models, candidates=4, fuse=0.5))


def test_a_model_does_not_differ_from_itself(job) -> None:
    _, report = job
    assert report["differences"]["candidate-base"]["mrr"] == {"mean": 0, "low": 0, "high": 0, "confidence": 0.95}
    assert list(report["rows"]) == ["none", "base", "candidate", "base+bm25", "candidate+bm25"]
    assert report["candidates_per_query"] == 10
    assert report["rows"]["none"]["has_right@10"] <= report["right_found"] < 1
    assert report["rows"]["candidate"]["tokens_per_second"] > 0


def test_prods_gate_refuses_the_tiny_model_and_says_why(job) -> None:
    folders, _ = job
    context = json.loads((Path(__file__).parents[2] / "cdk.json").read_text(encoding="utf-8"))["context"]
    evaluation = load_settings({**context, "stage": "prod"}).evaluation
    result = decide(json.loads((folders.output / "metrics.json").read_text(encoding="utf-8")), evaluation.gate)
    assert not result["passed"]
    assert "It had to be not below no reranker" in result["message"]
    assert "its base model" not in result["message"]


@pytest.mark.parametrize("metric", METRICS)
def test_the_gate_can_judge_by_every_metric(metric: str) -> None:
    context = json.loads((Path(__file__).parents[2] / "cdk.json").read_text(encoding="utf-8"))["context"]
    assert load_settings({**context, "stage": "prod", "evaluation.metric": metric}).evaluation.metric == metric


def test_slices_by_length_and_source_add_up_to_all_queries(job) -> None:
    _, report = job
    for kind in ("query length", "source"):
        slices = [item for item in report["slices"] if item["by"] == kind]
        assert len(slices) > 1
        assert sum(item["queries"] for item in slices) == report["queries"]
        for row, figures in report["rows"].items():
            weighted = sum(item["queries"] * item["rows"][row]["mrr"]["mean"] for item in slices) / report["queries"]
            assert weighted == pytest.approx(figures["mrr"], abs=1e-5)


def test_the_job_leaves_figures_golden_queries_and_a_page_that_stands_alone(job) -> None:
    folders, report = job
    assert json.loads((folders.output / "report.json").read_text(encoding="utf-8")) == report
    figures = json.loads((folders.output / "metrics.json").read_text(encoding="utf-8"))
    assert figures == {key: value for key, value in report.items() if key != "worst_queries"}
    golden = json.loads((folders.output / "golden.json").read_text(encoding="utf-8"))["queries"]
    assert len(golden) == 5
    for item in golden:
        assert len(item["scores"]) == len(item["documents"])
        assert all(0 < score < 1 for score in item["scores"])
        assert 0 <= item["positive"] < len(item["documents"])
    page = (folders.output / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5 and "</html>" in page and "candidate − no reranker" in page
    assert page.count(">no reranker</text>") == 4  # every bar and line has its name
    assert "<script" not in page and 'src="http' not in page
    assert (folders.output / "manifest.json").is_file()


def test_the_same_figures_give_the_same_page(job) -> None:
    from ko_reranker.evaluation.report import render_report

    folders, report = job
    assert render_report(report) == (folders.output / "report.html").read_text(encoding="utf-8")


def test_worst_queries_are_those_ranked_lowest_and_their_texts_stay_out_of_figures_and_log(
    job, capsys: pytest.CaptureFixture[str]
) -> None:
    folders, report = job
    worst = report["worst_queries"]["candidate"]
    assert 0 < len(worst) <= 10
    assert [item["rank"] for item in worst] == sorted((item["rank"] for item in worst), reverse=True)
    assert worst[0]["rank"] > 1
    test_set = read_test_set([folders.dataset / "dev.jsonl"])
    evaluate(test_set, EvaluationSettings({"candidate": "sample:tiny"}, candidates=5, max_queries=4))
    said = capsys.readouterr().out + (folders.output / "metrics.json").read_text(encoding="utf-8")
    for item in worst:
        assert item["query"] not in said and item["right"] not in said


def test_a_base_without_a_head_is_left_out_of_the_job_and_told(job, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = ProcessingFolders(tmp_path / "job")
    shutil.copytree(job[0].dataset, folders.dataset)
    base = shutil.copytree(resolve_model("sample:tiny"), tmp_path / "base")
    AutoModel.from_pretrained(base).save_pretrained(base)
    settings = EvaluationSettings(job_models("sample:tiny", str(base), None), candidates=5, max_queries=20)
    report = evaluate_job(folders, settings)
    assert set(report["rows"]) == {"none", "candidate"} and set(report["models"]) == {"candidate"}
    assert "base_scores" not in json.loads((folders.output / "golden.json").read_text())["queries"][0]
    assert "row=base left out: " in capsys.readouterr().out
    print_report(report)
    with pytest.raises(JobError, match=r"The candidate model: .* no head that scores"):
        evaluate_job(folders, replace(settings, models=job_models(str(base), "sample:tiny", None)))


def test_models_that_differ_in_their_head_or_pickled_weights_are_two_models(tmp_path: Path) -> None:
    for name, file in (("one", "2_Dense/model.safetensors"), ("two", "pytorch_model.bin")):
        folder = shutil.copytree(resolve_model("sample:tiny"), tmp_path / name)
        before = model_identity(str(folder), trust_remote_code=False)
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"weights")
        assert model_identity(str(folder), trust_remote_code=False) != before


def test_a_model_under_two_addresses_is_scored_once(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, _ = job
    copy = shutil.copytree(resolve_model("sample:tiny"), tmp_path / "copy")
    loaded: list[str] = []

    def loading(address: str, *more: EngineOptions, **trust: bool) -> Ranker:
        loaded.append(address)
        return load_ranker(address, *more, **trust)

    monkeypatch.setattr("ko_reranker.evaluation.evaluate.load_ranker", loading)
    models = {"base": "sample:tiny", "deployed": str(copy)}
    test_set = read_test_set([folders.dataset / "dev.jsonl"])
    report, _, _ = evaluate(test_set, EvaluationSettings(models, candidates=5, max_queries=4))
    assert loaded == ["sample:tiny"]
    assert report["rows"]["base"]["mrr"] == report["rows"]["deployed"]["mrr"]


def test_fewer_queries_are_spread_over_the_test_set(job) -> None:
    folders, _ = job
    test_set = read_test_set([folders.dataset / "dev.jsonl"])
    report, _, sets = evaluate(test_set, EvaluationSettings({}, max_queries=4))
    assert report["queries"] == 4
    assert [sets[0].query, sets[-1].query] == [test_set.questions[0].query, test_set.questions[-1].query]


def test_what_cannot_be_evaluated_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="The candidate model"):
        evaluate(TEST_SET, EvaluationSettings({"candidate": "/nowhere"}, candidates=2))
    with pytest.raises(EvaluationError, match="No model may be called none"):
        evaluate(TEST_SET, EvaluationSettings({"none": "sample:tiny"}))
    folders = ProcessingFolders(tmp_path)
    with pytest.raises(JobError, match=r"there is no .*dev\.jsonl"):
        evaluate_job(folders, EvaluationSettings(job_models("sample:tiny", "sample:tiny", None)))
    folders.dataset.mkdir(parents=True)
    write_jsonl(folders.dataset / "dev.jsonl", [{"query": "가", "pos": ["나"]}])
    with pytest.raises(JobError, match="none of the 1 queries has a right passage"):
        evaluate_job(folders, EvaluationSettings(job_models("sample:tiny", "sample:tiny", None)))


# ---------------------------------------------------------------- the command

COMMAND = Path(sys.executable).parent / "ko-reranker"


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "evaluate", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_compares_models_on_a_test_set_anywhere(tmp_path: Path) -> None:
    rows = [{"query": question.query, "pos": list(question.relevance)} for question in TEST_SET.questions]
    write_jsonl(tmp_path / "faq.jsonl", rows)
    arguments = ("--model", "tiny=sample:tiny", "--model", "bm25:morphemes", "--fuse-weight", "0.9", "--seed", "3")
    limits = ("--candidates", "4", "--first-stage", "morphemes", "--max-queries", "4", "--max-length", "64", "--dtype", "fp32")
    done = run("--data", "faq.jsonl", *arguments, *limits, "--device", "cpu", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert list(report["rows"]) == ["none", "tiny", "bm25:morphemes", "tiny+bm25"]
    assert (report["queries"], report["candidates_per_query"], report["first_stage"]) == (4, 4, "morphemes")
    assert (report["fuse_weight"], report["seed"]) == (0.9, 3)
    for said in ("nDCG@10", "tiny - none", "bm25:morphemes", "out/report.html"):
        assert said in done.stdout
    assert "</html>" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert not any(question.query in done.stdout + done.stderr for question in TEST_SET.questions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "nowhere.jsonl"), "there is no nowhere.jsonl"),
        (("--data", "bad.jsonl"), "bad.jsonl line 1, pos: needs at least one passage"),
        (("--data", "bad.jsonl", "--candidate", "x"), "with --data name each model with --model"),
        (("--data", "bad.jsonl", "--model", "a/x", "--model", "b/x"), "two models are called x"),
        (
            ("--data", "bad.jsonl", "--model", "a/x", "--prompt", "setwise-ko"),
            "--prompt setwise-ko: name a model and its prompt",
        ),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "pos": []}\n', encoding="utf-8")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("--candidate", "a"), ("--candidate", "a", "--base", "b", "--model", "c")])
def test_the_job_tells_its_failure_where_sagemaker_reads_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--base-dir", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "--candidate and --base" in (tmp_path / "output/message").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "noise",
    [
        "ㅋ" * 60_000,
        "a" * 60_000,
        "하" * 60_000,
        "https://example.com/" + "aGkgdGhlcmU" * 6_000,
        "-=" * 30_000,
        "가나다라마바사" * 8_000,
    ],
    ids=["laughter", "letters", "syllables", "url", "rule", "unbroken"],
)
def test_no_text_takes_the_analyser_quadratic_time(noise) -> None:
    analyse = KOREAN.analyser(1)

    def seconds(text: str) -> float:
        before = time.process_time()
        analyse([text])
        return time.process_time() - before

    seconds("데우기")
    ordinary = seconds("서울의 인구는 940만 명이고, 부산은 항구 도시이다. " * 700)  # 20,000 characters
    assert seconds(noise) < 20 * ordinary, "three times the characters"


def test_what_stands_beside_noise_is_found() -> None:
    passages = [f"ㅋ{'ㅋ' * 5_000} 경복궁의 역사", "https://example.com/" + "x1" * 9_000 + " 한강의 길이", "백두산의 높이"]
    found = Bm25(passages, terms="morphemes")
    for place, query in enumerate(("경복궁", "한강", "백두산")):
        assert list(next(found.best([query], 1))) == [place]


def test_ordinary_texts_are_analysed_whole() -> None:
    analyse = KOREAN.analyser(1)
    sentence = "서울의 인구는 940만 명이다.\n"
    text = sentence * 100
    whole = [f"{token.form.lower()}/{token.tag[:2]}" for token in Kiwi().tokenize(text)]
    [terms] = analyse([text])
    assert terms == [term for term in whole if term in set(terms)]
    [one], [long] = analyse([sentence]), analyse([sentence * 1_000])
    assert Counter(long) == Counter({term: 1_000 * times for term, times in Counter(one).items()}), "nothing is lost in pieces"


def test_a_picture_of_paths_is_the_same_for_the_same_figures_and_runs_no_script() -> None:
    points = {"one": [(0.0, 2.5), (90.0, 0.25)], "other": [(0.0, 2.0), (100.0, 2.0)]}
    picture = plots.paths("Seconds", points, x_title="per cent", highest=3.0)
    assert picture == plots.paths("Seconds", points, x_title="per cent", highest=3.0)
    assert "<script" not in picture and "per cent" in picture and "other" in picture


def test_a_picture_of_courses_has_two_axes_and_is_the_same_for_the_same_figures() -> None:
    left, right = {"seconds": [0.5, 1.0, 0.7]}, {"instances": [2, 2, 40]}
    picture = plots.courses("A rise", left, right, x_title="minutes")
    assert picture == plots.courses("A rise", left, right, x_title="minutes")
    assert "<script" not in picture and "minutes" in picture and ">instances</text>" in picture
    # The right axis goes up to a tenth above the highest.
    assert ">44</text>" in picture


def test_a_picture_of_differences_has_a_bar_for_each_row_of_each_group_on_either_side_of_nothing() -> None:
    rows = {
        "one": {"long": {"mean": 0.05, "low": 0.01, "high": 0.08}, "noise": {"mean": -0.1, "low": -0.2, "high": 0.0}},
        "other": {"long": {"mean": 0.0, "low": -0.01, "high": 0.01}, "noise": {"mean": 0.02, "low": 0.0, "high": 0.04}},
    }
    picture = plots.differences("Gains", rows)
    assert picture == plots.differences("Gains", rows) and "<script" not in picture
    assert picture.count('class="bar"') == 4 and ">noise</text>" in picture and ">other</text>" in picture
    assert ">+0.20</text>" in picture and ">-0.20</text>" in picture, "the axis reaches as far up as down"


@pytest.mark.parametrize("milliseconds", [(0.03, 2_000.0), (7.0, 7.0), (10.0, 10.0)])
def test_a_picture_of_places_has_every_row_with_its_interval(milliseconds: tuple[float, float]) -> None:
    interval = {"mean": 0.7, "low": 0.6, "high": 0.8}
    points = {name: (ms, interval) for name, ms in zip(("one", "other"), milliseconds, strict=True)}
    picture = plots.places("Quality", points, x_title="ms")
    assert picture.count("<circle") == 6 and "nan" not in picture.lower() and ">other</text>" in picture
