"""The run card: what a saved model was made of and by, and what that took."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

import ko_reranker
from ko_reranker.container import Resources
from ko_reranker.recipes import Recipe
from training_job.loop.dataset import RecordFile
from training_job.loop.metrics import Progress
from training_job.loop.worker import Worker

RUN_CARD_FILE = "run_card.json"


def run_card(
    *,
    recipe: Recipe,
    base_commit: str | None,
    precision: str,
    records: RecordFile,
    progress: Progress,
    steps: int,
    saved_step: int,
    worker: Worker,
    resources: Resources,
) -> dict[str, Any]:
    """Return the card.

    Args:
        recipe: the settings.
        base_commit: the commit of the base model that a hub id came to, or None.
        precision: what was computed in.
        records: the training records; what else lies beside them is named by its hash.
        progress: what the run did, over all attempts.
        steps: planned.
        saved_step: the step whose weights are saved.
        worker: this one.
        resources: the machines.
    """
    hosts, hours = len(resources.hosts), progress.seconds / 3600
    price = recipe.instance_usd_per_hour
    per_second = 1 / max(progress.seconds, 1e-9)
    return {
        "recipe": asdict(recipe),
        "base_commit": base_commit,
        "precision_used": precision,
        "dataset": {
            "sha256": records.sha256,
            "records": len(records),
            "beside": {
                path.name: _sha256(path) for path in sorted(records.path.parent.glob("*.json*")) if path != records.path
            },
        },
        "steps": steps,
        "saved_step": saved_step,
        "final_loss": progress.loss,
        "cut_queries": progress.cut_queries,
        "best_on_dev": progress.best or None,
        "dev": [row for row in progress.history if "dev_mrr" in row],
        "workers": worker.world_size,
        "hosts": hosts,
        "instance_type": resources.instance_type,
        "device": torch.cuda.get_device_name() if worker.device.type == "cuda" else platform.machine(),
        "seconds": round(progress.seconds, 2),
        "queries_per_second": round(progress.queries * per_second, 2),
        "sequences_per_second": round(progress.sequences * per_second, 2),
        "tokens_per_second": round(progress.tokens * per_second, 1),
        # The loop's hours only: an instance also costs while it starts and loads.
        "cost_usd": round(price * hosts * hours, 4) if price else None,
        "versions": {
            "ko_reranker": ko_reranker.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
