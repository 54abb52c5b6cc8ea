"""Decide whether a candidate may go live, from the evaluation's figures."""

from __future__ import annotations

import json
from typing import Any

import boto3
from decision import Gate, Requirement, decide

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store

S3 = boto3.client("s3")
STORE = Store(S3, require("DATA_BUCKET"))
GATE = Gate(
    metric=require("GATE_METRIC"),
    must_beat={name: Requirement(**asked) for name, asked in json.loads(require("GATE_MUST_BEAT")).items()},
    min_queries=int(require("GATE_MIN_QUERIES")),
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    metrics = STORE.read_json(f"{event['prefix']}/evaluation/metrics.json")
    key = f"{event['prefix']}/evaluation/report.html"
    decision = decide(metrics, GATE)
    report, link = STORE.uri(key), _link(key)
    return decision | {"report": report, "link": link, "reason": f"{decision['message']} Report: {link}"}


def _link(key: str) -> str:
    """The report's page in the S3 console, to click on; what isn't AWS itself has none."""
    if not S3.meta.endpoint_url.split("/")[2].endswith(".amazonaws.com"):
        return STORE.uri(key)
    region = S3.meta.region_name
    return f"https://{region}.console.aws.amazon.com/s3/object/{STORE.bucket}?region={region}&prefix={key}"
