"""The public rerank API behind API Gateway: any dialect in, the caller's own dialect out."""

from __future__ import annotations

import os
from typing import Any

from model_endpoint import ModelEndpoint
from reranking import Settings, answer

SETTINGS = Settings.from_environment(os.environ)
ENDPOINT = ModelEndpoint.connect(SETTINGS.endpoint_name)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return answer(event, ENDPOINT, SETTINGS)
