"""Refuse a deploy that would change the endpoint while a release does, or while there is none."""

from __future__ import annotations

import os
import time
from typing import Any

import boto3
from guarding import away, holder, let_pass

from ko_reranker.custom_resource import answer

CLOUDFORMATION, DYNAMODB, STEP_FUNCTIONS = (
    boto3.client("cloudformation"),
    boto3.client("dynamodb"),
    boto3.client("stepfunctions"),
)
SAGEMAKER, ENDPOINT_NAME = boto3.client("sagemaker"), os.environ["ENDPOINT_NAME"]
TABLE, LOCK_ID, POLL_SECONDS = os.environ["TABLE"], os.environ["LOCK_ID"], float(os.environ["POLL_SECONDS"])


def handler(event: dict[str, Any], context: Any) -> None:
    answer(
        event,
        lambda: let_pass(
            event,
            CLOUDFORMATION,
            held_by=lambda: holder(DYNAMODB, STEP_FUNCTIONS, TABLE, LOCK_ID),
            wait=lambda: time.sleep(POLL_SECONDS),
            is_away=lambda: away(SAGEMAKER, ENDPOINT_NAME),
        ),
    )
