"""The gate decides by the evaluation's means, and says what it decided by."""

from __future__ import annotations

import json

import boto3
import pytest
from loading import LAMBDA, load
from moto import mock_aws

from ko_reranker.data.errors import PipelineError

decision = load("gate", "decision")


def metrics(**mrr: float) -> dict:
    return {"queries": 120, "rows": {name: {"mrr": value} for name, value in mrr.items()}}


def gate(*must_beat: str):
    return decision.Gate("mrr", must_beat)


def test_a_better_candidate_passes_and_the_sentence_has_every_figure() -> None:
    result = decision.decide(metrics(candidate=0.7, base=0.5, none=0.6), gate("base", "none"))
    assert result["passed"]
    for part in ("120 queries", "candidate 0.700", "base 0.500", "none 0.600"):
        assert part in result["message"]


@pytest.mark.parametrize(("name", "named"), [("base", "its base model"), ("none", "no reranker"), ("deployed", "the deployed")])
def test_a_candidate_that_loses_to_one_of_them_is_stopped_by_name(name: str, named: str) -> None:
    rows = {"candidate": 0.5, "base": 0.4, "none": 0.4, "deployed": 0.4, name: 0.6}
    result = decision.decide(metrics(**rows), gate("base", "none", "deployed"))
    assert not result["passed"]
    assert named in result["message"]


def test_a_tie_is_no_improvement() -> None:
    assert not decision.decide(metrics(candidate=0.5, base=0.5), gate("base"))["passed"]


def test_a_model_that_is_not_there_asks_for_nothing() -> None:
    assert decision.decide(metrics(candidate=0.5, base=0.4), gate("base", "deployed"))["passed"]


def test_what_need_not_be_beaten_is_shown_and_does_not_decide() -> None:
    result = decision.decide(metrics(candidate=0.5, base=0.2, none=0.9), gate("base"))
    assert result["passed"]
    assert "none 0.900" in result["message"]


def test_a_metric_that_was_not_measured_is_a_clear_stop() -> None:
    with pytest.raises(PipelineError, match=r"gate\.metric|gate.metric is map"):
        decision.decide(metrics(candidate=0.5), decision.Gate("map", ("base",)))


@mock_aws
def test_the_handler_reads_the_runs_own_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "DATA_BUCKET": "data",
        "GATE_METRIC": "mrr",
        "GATE_MUST_BEAT": '["base"]',
    }.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-2"})
    body = json.dumps(metrics(candidate=0.7, base=0.5))
    s3.put_object(Bucket="data", Key="runs/r/evaluation/metrics.json", Body=body)
    monkeypatch.syspath_prepend(str(LAMBDA / "gate"))
    result = load("gate", "handler").handler({"prefix": "runs/r"}, None)
    assert result["passed"]
    assert result["report"] == "s3://data/runs/r/evaluation/report.html"


def test_a_missing_variable_is_named_at_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-northeast-2")
    monkeypatch.delenv("DATA_BUCKET", raising=False)
    monkeypatch.syspath_prepend(str(LAMBDA / "gate"))
    with pytest.raises(RuntimeError, match="DATA_BUCKET"):
        load("gate", "handler")
