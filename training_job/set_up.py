"""The set-up of a training run, apart from its loop: open the records, load the model, make the optimiser."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ko_reranker.container import JobError, TrainingFolders
from ko_reranker.models import ModelNotFoundError, hub_commit, resolve_model
from ko_reranker.rankers.interface import RankerError
from ko_reranker.recipes import Recipe
from ko_reranker.retraining.continuing import FREE_HYPERPARAMETERS
from training_job.families import load_family
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.family import TrainedFamily
from training_job.loop.groups import Encode, GroupSampler
from training_job.loop.training_run import TrainingRun
from training_job.loop.worker import Worker, precision_on


def set_up(recipe: Recipe, folders: TrainingFolders, worker: Worker) -> TrainingRun:
    """Open the records, load the model and make what trains it.

    Raises:
        JobError: the records, the model or the device make it impossible; the sentence says what to do.
    """
    records = _open_records(folders.dataset / "train.jsonl", recipe, worker)
    family, base_commit = _load_base(recipe, worker.device)
    if records.with_instruction and not family.instructed:
        worker.say(f"{records.with_instruction} records have an instruction, which this model does not read.")
    sampler = GroupSampler(
        records,
        family.encode,
        group_size=recipe.group_size,
        batch_queries=recipe.batch_queries,
        seed=recipe.seed,
        whole=recipe.in_batch_negatives,
    )
    dev = _open_dev(folders.dataset / "dev.jsonl", family.encode, recipe, worker)
    precision, remark = precision_on(worker.device, recipe.precision)
    if remark:
        worker.say(remark)
    floating = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    trained = _trained(family.model)
    optimizer = _optimizer(trained, recipe)
    scaler = torch.amp.GradScaler(worker.device.type, enabled=precision == "fp16")
    # A checkpoint belongs to one recipe and one dataset.
    identity = {name: value for name, value in asdict(recipe).items() if name not in FREE_HYPERPARAMETERS}
    identity["dataset_sha256"] = records.sha256
    return TrainingRun(
        recipe=recipe,
        folders=folders,
        worker=worker,
        records=records,
        dev=dev,
        family=family,
        base_commit=base_commit,
        sampler=sampler,
        steps=max(1, round(recipe.epochs * sampler.steps_per_epoch)),
        precision=precision,
        autocast=torch.autocast(worker.device.type, floating, enabled=floating is not None),
        trained=trained,
        optimizer=optimizer,
        scaler=scaler,
        checkpoints=CheckpointStore(folders.checkpoints, identity, family.model, optimizer, scaler),
    )


def _open_records(path: Path, recipe: Recipe, worker: Worker) -> RecordFile:
    records = RecordFile(path)
    alone = 0 if recipe.in_batch_negatives else records.without_negatives  # others' passages are there to compare with
    if alone == len(records):
        raise JobError(f"No record of {path.name} has a negative: mine negatives first (mine_negatives), or put some in `neg`.")
    if alone:
        worker.say(f"{alone} of {len(records)} records have no negative and teach nothing.")
    if recipe.distillation_weight:
        if not records.with_scores:
            raise JobError(
                f"distillation_weight is {recipe.distillation_weight:g}, but no record of {path.name} has pos_scores and "
                "neg_scores: mine with a teacher, or set it to 0."
            )
        if records.with_scores < len(records):
            worker.say(f"{len(records) - records.with_scores} of {len(records)} records have no teacher's scores.")
    return records


def _open_dev(path: Path, encode: Encode, recipe: Recipe, worker: Worker) -> DevSet | None:
    if not recipe.dev_queries:
        return None
    if path.is_file() and path.stat().st_size:
        dev = DevSet(path, encode, group_size=recipe.group_size, queries=recipe.dev_queries, seed=recipe.seed)
        if dev.chosen:
            return dev
    if recipe.early_stop_patience:
        raise JobError(f"early_stop_patience needs a {path.name} beside train.jsonl with negatives; set it to 0 to go without.")
    worker.say(f"There is no {path.name} with negatives: nothing to evaluate on during training.")
    return None


def _load_base(recipe: Recipe, device: torch.device) -> tuple[TrainedFamily, str | None]:
    """Return the model to start from, and the commit that it is of, if it is from the hub."""
    try:
        folder = resolve_model(recipe.base_model)
        # A head that the base does not have starts from the seed, on every worker the same.
        torch.manual_seed(recipe.seed)
        return load_family(folder, recipe, device), hub_commit(folder)
    except (ModelNotFoundError, RankerError) as error:
        raise JobError(f"base_model: {error}") from None


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters to train: all but those that the loss cannot see.

    The output's bias shifts all logits of a group alike, a key's bias all scores of a query alike: softmax takes both out. Adam
    would blow the rounding noise of their gradients up to whole steps, and the level of the scores would wander.
    """
    for name, parameter in model.named_parameters():
        if (name.endswith("bias") and parameter.numel() == 1) or name.endswith("self.key.bias"):
            parameter.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _optimizer(trained: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW; biases and norms are not decayed."""
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        fused=True,
    )
