"""Validate the execution input of a retraining, fill in the defaults, and say what its training job will be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ko_reranker.data.environment import require
from ko_reranker.retraining.execution_input import Defaults, resolve
from ko_reranker.retraining.training_request import TrainingPlace, training_request

RECIPES = json.loads(Path(__file__).with_name("recipes.json").read_text(encoding="utf-8"))
DEFAULTS = Defaults(**json.loads(require("DEFAULTS")), recipes=RECIPES)
TRAINING = TrainingPlace(**json.loads(require("TRAINING")))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return the run with its training job's request; a notebook trains on ``data`` of its own."""
    run = resolve(event["input"], event["execution"], DEFAULTS)
    return run.to_json() | {"training_job": training_request(run, TRAINING, data=event.get("data"))}
