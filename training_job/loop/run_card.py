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
from ko_reranker.container import read_resources
from training_job.loop.metrics import Progress
from training_job.loop.training_run import TrainingRun

RUN_CARD_FILE = "run_card.json"


def run_card(run: TrainingRun, progress: Progress, saved_step: int) -> dict[str, Any]:
    """Return the card.

    Args:
        run: whose training records are named by their hash, likewise what lies beside them.
        progress: what the run did, over all attempts.
        saved_step: the step whose weights are saved.
    """
    records, resources = run.records, read_resources(run.folders.config)
    hosts, hours = len(resources.hosts), progress.seconds / 3600
    price = run.recipe.instance_usd_per_hour
    per_second = 1 / max(progress.seconds, 1e-9)
    return {
        "recipe": asdict(run.recipe),
        "base_commit": run.base_commit,
        "precision_used": run.precision,
        "dataset": {
            "sha256": records.sha256,
            "records": len(records),
            "beside": {
                path.name: _sha256(path) for path in sorted(records.path.parent.glob("*.json*")) if path != records.path
            },
        },
        "steps": run.steps,
        "saved_step": saved_step,
        "final_loss": progress.loss,
        "cut_queries": progress.cut_queries,
        "best_on_dev": progress.best or None,
        "dev": [row for row in progress.history if "dev_mrr" in row],
        "workers": run.worker.world_size,
        "hosts": hosts,
        "instance_type": resources.instance_type,
        "device": torch.cuda.get_device_name() if run.worker.device.type == "cuda" else platform.machine(),
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
