"""The public rerank API behind API Gateway: any dialect in, the caller's own dialect out."""

from __future__ import annotations

import os
from typing import Any

from document_counts import CountsClient, DocumentCounts
from model_endpoint import ModelEndpoint
from reranking import Settings, answer
from sagemaker_runtime import RuntimeClient
from waking import Bell, StatesClient, Waking

SETTINGS = Settings.from_environment(os.environ)
ENDPOINT = ModelEndpoint(
    SETTINGS.endpoint_name,
    RuntimeClient.from_environment(os.environ),
    documents_per_call=SETTINGS.documents_per_call,
    parallel_calls=SETTINGS.parallel_calls,
    deadline_seconds=SETTINGS.deadline_seconds,
)
TABLE = CountsClient.from_environment(os.environ)
COUNTS = DocumentCounts(SETTINGS.counts_table, TABLE) if SETTINGS.counts_table else None
BELL = (
    Bell(SETTINGS.wake_machine, SETTINGS.counts_table, TABLE, StatesClient.from_environment(os.environ))
    if SETTINGS.wake_machine and SETTINGS.counts_table
    else None
)
WAKING = Waking(SETTINGS.wake_seconds, BELL)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return answer(event, ENDPOINT, SETTINGS, COUNTS, WAKING)
