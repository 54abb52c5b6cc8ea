"""Decide whether a candidate may go live, from the evaluation's figures."""

from __future__ import annotations

import json
from typing import Any

import boto3
from decision import Gate, decide

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store

STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))
GATE = Gate(metric=require("GATE_METRIC"), must_beat=tuple(json.loads(require("GATE_MUST_BEAT"))))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    metrics = STORE.read_json(f"{event['prefix']}/evaluation/metrics.json")
    report = STORE.uri(f"{event['prefix']}/evaluation/report.html")
    return decide(metrics, GATE) | {"report": report}
