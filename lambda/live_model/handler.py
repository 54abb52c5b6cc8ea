"""Make the parameter of the live model, once."""

from __future__ import annotations

from typing import Any

import boto3
from parameter import keep

from ko_reranker.custom_resource import answer

SSM = boto3.client("ssm")


def handler(event: dict[str, Any], context: Any) -> None:
    answer(event, lambda: keep(event, SSM))
