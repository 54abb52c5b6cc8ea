"""Decide whether a candidate may go live, from the evaluation's figures."""

from __future__ import annotations

import json
from typing import Any

import boto3

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store
from ko_reranker.embedded_metrics import MetricLine
from ko_reranker.retraining.gate import Gate, decide

S3 = boto3.client("s3")
STORE = Store(S3, require("DATA_BUCKET"))
GATE = Gate.from_json(json.loads(require("GATE")))
NAMESPACE, ENDPOINT = require("METRICS_NAMESPACE"), require("ENDPOINT_NAME")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    metrics = STORE.read_json(f"{event['prefix']}/evaluation/metrics.json")
    key = f"{event['prefix']}/evaluation/report.html"
    decision = decide(metrics, GATE)
    report, link = STORE.uri(key), report_link(key)
    for row, score in decision["scores"].items():
        line = MetricLine(NAMESPACE, {"endpoint": ENDPOINT, "row": row, "passed": decision["passed"], "report": report})
        line.add({f"evaluation_{GATE.metric}": ("None", score)}, ["endpoint", "row"])
        line.write()
    return decision | {"report": report, "link": link, "reason": f"{decision['message']} Report: {link}"}


def report_link(key: str) -> str:
    """The report's page in the S3 console, to click on; what isn't AWS itself has none."""
    if not S3.meta.endpoint_url.split("/")[2].endswith(".amazonaws.com"):
        return STORE.uri(key)
    region = S3.meta.region_name
    return f"https://{region}.console.aws.amazon.com/s3/object/{STORE.bucket}?region={region}&prefix={key}"
