"""Ask the endpoint golden queries right after a release."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from golden_queries import check_endpoint

from ko_reranker.data.environment import require

ENDPOINT = require("ENDPOINT_NAME")
S3 = boto3.client("s3")
RUNTIME = boto3.client("sagemaker-runtime", config=Config(read_timeout=60, retries={"max_attempts": 2}))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return check_endpoint(ENDPOINT, event["golden"], S3, RUNTIME)
