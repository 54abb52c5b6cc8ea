"""The smoke test of a release tells the model that was asked for from any other."""

from __future__ import annotations

import io
import json
from typing import Any

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from loading import load

from ko_reranker.data.errors import PipelineError

golden_queries = load("smoke_test", "golden_queries")
GOLDEN = {"queries": [{"query": "질문", "documents": ["답", "아님"], "scores": [0.9, 0.1]}]}


def body(value: Any) -> StreamingBody:
    data = json.dumps(value).encode()
    return StreamingBody(io.BytesIO(data), len(data))


def check(
    scores: list[float] | None, golden: str = "s3://data/runs/r/evaluation/golden.json", holds: Any = GOLDEN
) -> dict[str, Any]:
    """Run the check against an endpoint that answers these scores."""
    s3, runtime = (boto3.client(name, region_name="ap-northeast-2") for name in ("s3", "sagemaker-runtime"))
    results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores or ())]
    with Stubber(s3) as s3_stub, Stubber(runtime) as runtime_stub:
        if golden != "none":
            s3_stub.add_response("get_object", {"Body": body(holds)}, {"Bucket": "data", "Key": golden.split("/", 3)[3]})
        runtime_stub.add_response("invoke_endpoint", {"Body": body({"results": results})})
        return golden_queries.check_endpoint("endpoint", golden, s3, runtime)


def test_the_scores_of_the_evaluation_pass_and_the_largest_difference_is_told() -> None:
    assert check([0.905, 0.1]) == {"queries": 1, "max_difference": 0.005}


@pytest.mark.parametrize(
    ("scores", "passes"), [([0.87, 0.105], True), ([0.87, 0.12], False), ([0.79, 0.1], False), ([0.6, 0.1], False)]
)
def test_rounding_passes_here_and_there_and_another_models_scores_are_refused(scores: list[float], passes: bool) -> None:
    if passes:
        assert check(scores)["max_difference"] == pytest.approx(0.03)
        return
    with pytest.raises(PipelineError, match=r"document 0 scores 0\.\d+, in the evaluation 0\.9000, .*does not serve the model"):
        check(scores)


def test_of_a_model_that_compares_the_orders_are_compared() -> None:
    places = [place / 10 for place in range(10, 0, -1)]
    golden = {
        "queries": [{"query": "질문", "documents": [str(place) for place in places], "scores": places, "absolute": False}]
    }
    assert check(places, holds=golden) == {"queries": 1, "max_difference": 0.0}
    swapped = [places[1], places[0], *places[2:]]
    assert check(swapped, holds=golden)["max_difference"] == pytest.approx(1 / 45, abs=1e-6)
    with pytest.raises(PipelineError, match="100% of its pairs of documents stand the other way round"):
        check(places[::-1], holds=golden)


@pytest.mark.parametrize("scores", [None, [0.9], [0.9, 0.1, 0.2], [0.9, float("nan")]])
def test_an_answer_out_of_form_is_refused(scores: list[float] | None) -> None:
    with pytest.raises(PipelineError, match="golden query 0"):
        check(scores)


def test_a_model_without_golden_queries_must_answer_in_form() -> None:
    assert check([0.2, 0.3, 0.1], golden="none") == {"queries": 1, "max_difference": 0.0}
    with pytest.raises(PipelineError):
        check([0.2], golden="none")
