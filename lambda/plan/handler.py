"""Find out what a retraining would translate and what that costs, before anything is spent."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from planning import LOOK_UPS, Prices, plan

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store
from ko_reranker.data.translation.memory import TranslationMemory
from ko_reranker.retraining.run import Run

STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))
MEMORY = TranslationMemory(
    boto3.client("dynamodb", config=Config(max_pool_connections=LOOK_UPS)), require("TRANSLATION_MEMORY")
)
PRICES = Prices(
    usd_per_million_characters=float(require("USD_PER_MILLION_CHARACTERS")),
    characters_per_second=float(require("CHARACTERS_PER_SECOND")),
    shard_bytes=int(require("SHARD_BYTES")),
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return plan(Run.from_json(event["request"]), STORE, MEMORY, PRICES, context.get_remaining_time_in_millis)
