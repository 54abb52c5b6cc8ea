"""Every day: logs that services named get an end, and what old releases made goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import boto3
from keeping import expire_logs, expire_releases

from ko_reranker.data.environment import require

LOGS, SAGEMAKER = boto3.client("logs"), boto3.client("sagemaker")
LOG_GROUPS, LOG_DAYS = json.loads(require("LOG_GROUPS")), int(require("LOG_DAYS"))
ENDPOINT, KEPT_DAYS = require("ENDPOINT_NAME"), int(require("KEPT_DAYS"))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {
        "log_groups": expire_logs(LOGS, LOG_GROUPS, LOG_DAYS),
        "deleted": expire_releases(SAGEMAKER, ENDPOINT, KEPT_DAYS, datetime.now(UTC)),
    }
