"""The smoke test of a release: the endpoint must answer golden queries as the candidate did in its evaluation.

Scores are absolute and the same on every machine up to rounding, so agreement shows that the endpoint serves the very model
that was asked for, not only that something answers. Of a model that compares documents it is their order that has to agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from ko_reranker.data.errors import PipelineError

# Half precision in the endpoint against fp32 in an evaluation: scores of 0 to 1 differ in the third digit, and here and there
# one in the second (bf16 moved a logit by .28 at most: benchmarks/results/precision.json). Another model's differ everywhere.
MEAN_TOLERANCE = 0.02
TOLERANCE = 0.1
# There a close comparison may turn out the other way, and what was compared after it with it. Of another model half of all
# pairs of documents would stand the other way round.
ORDER_TOLERANCE = 0.1
# For a model that came with no golden queries: that it answers in form.
_ANY = {
    "query": "서울에서 부산까지 기차로 얼마나 걸리나요?",
    "documents": [
        "KTX로 서울에서 부산까지 두 시간 반쯤 걸린다.",
        "김치는 배추를 소금에 절여 담근다.",
        "제주도는 화산섬이다.",
    ],
}


def check_endpoint(endpoint: str, golden_uri: str, s3: Any, runtime: Any) -> dict[str, Any]:
    """Ask every golden query and compare.

    Args:
        endpoint: the endpoint's name.
        golden_uri: the S3 URI of a ``golden.json``, or ``none`` for a model without one.

    Returns:
        ``queries`` asked and ``max_difference``, the largest difference of a score (0 to 1) from the golden one; of a model
        that compares, the largest share of a query's pairs of documents that stand the other way round.

    Raises:
        PipelineError: naming the query's number and what was wrong with the answer.
    """
    queries: list[dict[str, Any]] = [_ANY]
    if golden_uri != "none":
        parts = urlsplit(golden_uri)
        body = s3.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()
        queries = json.loads(body)["queries"]
    worst = 0.0
    for number, golden in enumerate(queries):
        scores = _ask(endpoint, golden, number, runtime)
        if golden.get("absolute") is False:
            worst = max(worst, _check_order(number, scores, golden["scores"]))
            continue
        if "scores" in golden:
            worst = max(worst, _check_scores(number, scores, golden["scores"]))
    return {"queries": len(queries), "max_difference": round(worst, 6)}


def _check_scores(number: int, scores: dict[int, float], expected: Sequence[float]) -> float:
    """Return the largest difference of a score."""
    differences = [abs(scores[index] - score) for index, score in enumerate(expected)]
    worst, mean = max(differences), sum(differences) / len(differences)
    if worst > TOLERANCE or mean > MEAN_TOLERANCE:
        index = differences.index(worst)
        raise PipelineError(
            f"golden query {number}: document {index} scores {scores[index]:.4f}, in the evaluation {expected[index]:.4f}, "
            f"and the mean difference of all is {mean:.4f}: the endpoint does not serve the model that was asked for"
        )
    return worst


def _check_order(number: int, scores: dict[int, float], expected: Sequence[float]) -> float:
    """Return the share of pairs of documents that stand the other way round."""
    pairs = [(one, other) for one, other in combinations(range(len(expected)), 2) if expected[one] != expected[other]]
    turned = sum((scores[one] > scores[other]) != (expected[one] > expected[other]) for one, other in pairs)
    share = turned / max(1, len(pairs))
    if share > ORDER_TOLERANCE:
        raise PipelineError(
            f"golden query {number}: {share:.0%} of its pairs of documents stand the other way round than in the evaluation: "
            "the endpoint does not serve the model that was asked for"
        )
    return share


def _ask(endpoint: str, golden: dict[str, Any], number: int, runtime: Any) -> dict[int, float]:
    body = json.dumps({"query": golden["query"], "documents": golden["documents"]}, ensure_ascii=False).encode()
    answer = runtime.invoke_endpoint(EndpointName=endpoint, ContentType="application/json", Body=body)
    results = json.loads(answer["Body"].read()).get("results", [])
    scores = {item["index"]: item["relevance_score"] for item in results}
    if sorted(scores) != list(range(len(golden["documents"]))) or not all(map(math.isfinite, scores.values())):
        raise PipelineError(
            f"golden query {number}: the endpoint answered {len(results)} results for {len(golden['documents'])} documents"
        )
    return scores
