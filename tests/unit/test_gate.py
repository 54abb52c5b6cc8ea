"""The gate decides by paired differences, and says what it decided by."""

from __future__ import annotations

import json

import boto3
import pytest
from loading import LAMBDA, load
from moto import mock_aws

from ko_reranker.data.errors import PipelineError
from ko_reranker.retraining.gate import Gate, Requirement, decide


def metrics(queries: int = 120, *, noise: float = 0.05, **mrr: float) -> dict:
    """An evaluation whose differences to the candidate have intervals of plus and minus ``noise``."""
    return {
        "queries": queries,
        "rows": {name: {"mrr": value} for name, value in mrr.items()},
        "differences": {
            f"candidate-{name}": {"mrr": {"mean": mean, "low": mean - noise, "high": mean + noise}}
            for name, value in mrr.items()
            if name != "candidate"
            for mean in [mrr["candidate"] - value]
        },
    }


def gate(min_queries: int = 1, **must_beat: str | tuple[str, float]):
    asked = {name: (demand, 0.0) if isinstance(demand, str) else demand for name, demand in must_beat.items()}
    return Gate("mrr", {name: Requirement(*values) for name, values in asked.items()}, min_queries)


def test_a_better_candidate_passes_and_the_sentence_has_every_figure() -> None:
    result = decide(metrics(candidate=0.7, base=0.5, none=0.6), gate(base="above", none="not_below"))
    assert result["passed"]
    for part in (
        "120 queries",
        "candidate 0.700",
        "base 0.500",
        "none 0.600",
        "above its base model (+0.200 [+0.150, +0.250])",
    ):
        assert part in result["message"]


@pytest.mark.parametrize(("name", "named"), [("base", "its base model"), ("none", "no reranker"), ("deployed", "the deployed")])
@pytest.mark.parametrize("demand", ["not_below", "above", "clearly_above"])
def test_a_candidate_that_loses_to_one_of_them_is_stopped_by_name(name: str, named: str, demand: str) -> None:
    rows = {"candidate": 0.5, "base": 0.4, "none": 0.4, "deployed": 0.4, name: 0.6}
    result = decide(metrics(**rows), gate(base=demand, none=demand, deployed=demand))
    assert not result["passed"]
    assert named in result["message"]
    assert "not released" in result["message"]


@pytest.mark.parametrize(
    ("mean", "passing"),
    [
        (0.2, {"not_below", "above", "clearly_above"}),
        (0.03, {"not_below", "above"}),  # better, but within the noise
        (0.0, {"not_below"}),
        (-0.03, {"not_below"}),  # worse, but within the noise
        (-0.2, set()),
    ],
)
def test_each_demand_draws_its_line(mean: float, passing: set[str]) -> None:
    found = metrics(candidate=0.5 + mean, base=0.5)
    assert {name for name in ("not_below", "above", "clearly_above") if decide(found, gate(base=name))["passed"]} == passing


@pytest.mark.parametrize(
    ("demand", "margin", "passes"),
    [
        ("above", 0.1, False),
        ("above", 0.05, True),
        ("clearly_above", 0.02, True),
        ("clearly_above", -0.1, True),
        ("not_below", 0.14, False),
        ("not_below", 0.12, True),
    ],
)
def test_a_margin_moves_the_line(demand: str, margin: float, passes: bool) -> None:
    assert decide(metrics(candidate=0.58, base=0.5), gate(base=(demand, margin)))["passed"] is passes


def test_a_model_that_differs_in_nothing_is_not_below_and_not_above() -> None:
    found = metrics(candidate=0.5, base=0.5, noise=0.0)
    assert decide(found, gate(base="not_below"))["passed"]
    assert not decide(found, gate(base="above"))["passed"]


def test_too_few_queries_release_nothing_however_good() -> None:
    result = decide(metrics(49, candidate=0.9, base=0.1), gate(50, base="above"))
    assert not result["passed"]
    assert "49 queries are too few" in result["message"]
    assert "translation.dev_fraction" in result["message"]


def test_a_model_that_is_not_there_asks_for_nothing() -> None:
    assert decide(metrics(candidate=0.5, base=0.4), gate(base="above", deployed="above"))["passed"]


def test_what_need_not_be_beaten_is_shown_and_does_not_decide() -> None:
    result = decide(metrics(candidate=0.5, base=0.2, none=0.9), gate(base="above"))
    assert result["passed"]
    assert "none 0.900" in result["message"]


def test_a_metric_that_was_not_measured_is_a_clear_stop() -> None:
    with pytest.raises(PipelineError, match=r"evaluation\.metric is map"):
        decide(metrics(candidate=0.5, base=0.4), Gate("map", {"base": Requirement("above")}))


@mock_aws
def test_the_handler_reads_the_runs_own_evaluation_and_links_its_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "METRICS_NAMESPACE": "ko-reranker",
        "ENDPOINT_NAME": "ko-reranker-prod",
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "DATA_BUCKET": "data",
        "GATE": '{"metric": "mrr", "must_beat": {"base": {"demand": "above", "margin": 0.3}}, "min_queries": 50}',
    }.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-2"})
    body = json.dumps(metrics(candidate=0.7, base=0.5))
    s3.put_object(Bucket="data", Key="runs/r/evaluation/metrics.json", Body=body)
    monkeypatch.syspath_prepend(str(LAMBDA / "gate"))
    result = load("gate", "handler").handler({"prefix": "runs/r"}, None)
    assert not result["passed"]
    assert "by +0.300" in result["message"]
    assert result["report"] == "s3://data/runs/r/evaluation/report.html"
    # What the notice of a stopped run and the request for an approval hold, to click on.
    assert result["link"] == (
        "https://ap-northeast-2.console.aws.amazon.com/s3/object/data?region=ap-northeast-2&prefix=runs/r/evaluation/report.html"
    )
    assert result["reason"].startswith(result["message"]) and result["reason"].endswith(result["link"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["row"]: line["evaluation_mrr"] for line in lines} == {"candidate": 0.7, "base": 0.5}
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("ko-reranker", [["endpoint", "row"]])
        assert (line["endpoint"], line["passed"]) == ("ko-reranker-prod", False)


@mock_aws
def test_away_from_aws_the_report_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "DATA_BUCKET": "data",
        "METRICS_NAMESPACE": "ko-reranker",
        "ENDPOINT_NAME": "ko-reranker-prod",
        "GATE": '{"metric": "mrr", "must_beat": {"base": {"demand": "above"}}}',
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(LAMBDA / "gate"))
    handler = load("gate", "handler")
    assert handler.report_link("runs/r/evaluation/report.html") == "s3://data/runs/r/evaluation/report.html"


def test_a_missing_variable_is_named_at_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-northeast-2")
    monkeypatch.delenv("DATA_BUCKET", raising=False)
    monkeypatch.syspath_prepend(str(LAMBDA / "gate"))
    with pytest.raises(RuntimeError, match="DATA_BUCKET"):
        load("gate", "handler")
