"""Validate the execution input of a retraining and fill in the defaults."""

from __future__ import annotations

import json
from typing import Any

from execution_input import Defaults, resolve

from ko_reranker.data.environment import require

DEFAULTS = Defaults.from_json(json.loads(require("DEFAULTS")))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return resolve(event["input"], event["execution"], DEFAULTS)
