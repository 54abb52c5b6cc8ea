"""A peer's trainer of late interaction on the benchmark's records; see benchmarks/families_training.py.

    .venv-peers-pylate/bin/python -m benchmarks.peers.late_interaction_training JOB.json

Reads a job as `benchmarks.peers.training` does, in_batch beside it, and prints the same: the CPU-seconds of each optimiser
step. A micro-batch is the queries of a step of accumulation, or, with in-batch negatives, the texts that GradCache computes at
once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler

from benchmarks.peers.training import Clock, arguments, without_dropout


def pylate(job: dict[str, Any]) -> tuple[Any, ...]:
    """Return PyLate's model, loss, trainer, arguments' class, and what only it is told."""
    from pylate import losses, models, utils
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model = models.ColBERT(job["model"], device="cpu")
    if job["in_batch"]:
        loss: torch.nn.Module = losses.CachedContrastive(model, mini_batch_size=job["micro_batch"])
    else:
        loss = losses.Contrastive(model)
    collator = utils.ColBERTCollator(model.tokenize)
    return model, loss, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, {"data_collator": collator}


def sentence_transformers(job: dict[str, Any]) -> tuple[Any, ...]:
    """Return the same of sentence-transformers."""
    from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.multi_vector_encoder import losses

    model = MultiVectorEncoder(job["model"], device="cpu")
    if job["in_batch"]:
        loss: torch.nn.Module = losses.CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=job["micro_batch"])
    else:
        loss = losses.MultiVectorMultipleNegativesRankingLoss(model)
    return model, loss, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments, {}


def train(job: dict[str, Any], clock: Clock, folder: str) -> None:
    """Train as the job says; the columns are the query, its positive and its negatives."""
    from datasets import Dataset

    model, loss, trainer_class, arguments_class, more = (pylate if job["trainer"] == "pylate" else sentence_transformers)(job)
    if job["gradient"]:
        without_dropout(model)
    rows = [json.loads(line) for line in Path(job["records"]).read_text(encoding="utf-8").splitlines()]
    columns = [
        {"query": row["query"], "positive": row["pos"][0]} | {f"negative_{at}": text for at, text in enumerate(row["neg"])}
        for row in rows
    ]
    settings = arguments(job | {"micro_batch": job["batch"]} if job["in_batch"] else job, folder)
    trainer = trainer_class(
        model=model,
        args=arguments_class(**settings),
        train_dataset=Dataset.from_list(columns),
        loss=loss,
        callbacks=[clock],
        **more,
    )
    trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)
    trainer.get_batch_sampler = lambda dataset, batch_size, drop_last, **_: torch.utils.data.BatchSampler(
        SequentialSampler(dataset), batch_size, drop_last
    )
    trainer.train()


def main() -> None:
    warnings.filterwarnings("ignore")
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    clock = Clock(job["gradient"])
    with tempfile.TemporaryDirectory() as folder:
        train(job, clock, folder)
    print(json.dumps({"seconds": clock.seconds}), flush=True)


if __name__ == "__main__":
    main()
