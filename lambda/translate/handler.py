"""Translate one shard of texts, as far as the time of one invocation goes."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from translation import TRANSLATE_CONFIG, translate_shard

from ko_reranker.data.environment import require
from ko_reranker.data.memory import TranslationMemory
from ko_reranker.data.store import Store

CONCURRENCY = int(require("CONCURRENCY"))
STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))
# One connection a thread, or the threads would wait for each other.
MEMORY = TranslationMemory(
    boto3.client("dynamodb", config=Config(max_pool_connections=CONCURRENCY)), require("TRANSLATION_MEMORY")
)
TRANSLATE = boto3.client("translate", config=TRANSLATE_CONFIG.merge(Config(max_pool_connections=CONCURRENCY)))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return translate_shard(event, STORE, MEMORY, TRANSLATE, CONCURRENCY, context.get_remaining_time_in_millis)
