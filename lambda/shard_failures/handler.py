"""Say why the shards of a run failed, in a sentence."""

from __future__ import annotations

from typing import Any

import boto3
from explaining import explain

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store

STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))


def handler(event: dict[str, Any], context: Any) -> dict[str, str]:
    return {"Cause": explain(event["prefix"], event["error"], STORE)}
