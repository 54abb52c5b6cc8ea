"""Say daily how old the live model is, as a metric that an alarm can look at."""

from __future__ import annotations

from typing import Any

import boto3
from age import report

from ko_reranker.data.environment import require

SSM, SAGEMAKER = boto3.client("ssm"), boto3.client("sagemaker")
PARAMETER, NAMESPACE, ENDPOINT = require("LIVE_MODEL"), require("METRICS_NAMESPACE"), require("ENDPOINT_NAME")


def handler(event: dict[str, Any], context: Any) -> None:
    report(PARAMETER, NAMESPACE, ENDPOINT, ssm=SSM, sagemaker=SAGEMAKER)
