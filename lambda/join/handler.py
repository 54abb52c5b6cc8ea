"""Put the translations back into records and split the dataset."""

from __future__ import annotations

from typing import Any

import boto3
from joining import join

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store
from ko_reranker.retraining.run import Run

STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return join(Run.from_json(event["request"]), STORE)
