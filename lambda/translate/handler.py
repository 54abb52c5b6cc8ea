"""Translate one shard of texts, as far as the time of one invocation goes."""

from __future__ import annotations

from typing import Any

import boto3
from amazon_translate import CLIENT_CONFIG
from botocore.config import Config
from translation import Effort, translate_shard

from ko_reranker.data.environment import require
from ko_reranker.data.store import Store
from ko_reranker.data.translation.memory import TranslationMemory

EFFORT = Effort(concurrency=int(require("CONCURRENCY")))
# One connection a thread, or the threads would wait for each other.
CONNECTIONS = Config(max_pool_connections=EFFORT.concurrency)
STORE = Store(boto3.client("s3"), require("DATA_BUCKET"))
MEMORY = TranslationMemory(boto3.client("dynamodb", config=CONNECTIONS), require("TRANSLATION_MEMORY"))
TRANSLATE = boto3.client("translate", config=CLIENT_CONFIG.merge(CONNECTIONS))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return translate_shard(event, STORE, MEMORY, TRANSLATE, EFFORT, context.get_remaining_time_in_millis)
