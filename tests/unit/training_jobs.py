"""Training jobs for tests: their folders as SageMaker lays them out, and the worker that trains alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ko_reranker.container import TrainingFolders
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.samples import paths
from training_job.loop.worker import Worker

CPU = torch.device("cpu")
ALONE = Worker(rank=0, world_size=1, local_rank=0, device=CPU)


def job_folders(
    base: Path, hyperparameters: Mapping[str, str], records: Sequence[TrainingRecord], dev: Sequence[TrainingRecord] = ()
) -> TrainingFolders:
    """Lay out a job's folders, with train.jsonl and, where there are records for it, dev.jsonl."""
    folders = TrainingFolders(base)
    folders.dataset.mkdir(parents=True)
    folders.config.mkdir(parents=True)
    write_jsonl(folders.dataset / "train.jsonl", [record.to_json() for record in records])
    if dev:
        write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in dev])
    (folders.config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return folders


def records_with_negatives() -> list[TrainingRecord]:
    """Return the sample's records that teach something."""
    return [record for record in read_record_file(paths.SAMPLE) if record.negatives]


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return how far weights or gradients are from others, by the others' norm."""
    assert one.keys() == other.keys()
    difference = sum((one[name] - other[name]).double().square().sum() for name in one)
    return float((difference / sum(value.double().square().sum() for value in other.values())).sqrt())
