"""What a training run works with: records, model, optimiser, and the checkpoints that it resumes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ko_reranker.container import TrainingFolders
from ko_reranker.recipes import Recipe
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.family import TrainedFamily
from training_job.loop.groups import Batch, GroupSampler, micro_batches
from training_job.loop.in_batch import ReadsApart, in_batch_losses
from training_job.loop.metrics import Progress
from training_job.loop.worker import Worker


@dataclass(frozen=True)
class TrainingRun:
    """All that the loop works with.

    Attributes:
        recipe: the settings.
        folders: of the job.
        worker: this process.
        records: to train on.
        dev: to evaluate on; None where there is nothing or the recipe does without.
        family: the model being trained.
        base_commit: the commit that the base model is of, if it is from the hub.
        sampler: says which groups a step sees.
        steps: optimiser steps of the whole run.
        precision: what is computed in: fp32, bf16 or fp16.
        autocast: computes in it; entered many times.
        trained: the parameters that the optimiser moves.
        optimizer: AdamW.
        scaler: of the loss; it does nothing but in fp16.
        checkpoints: of this run, in its folder.
    """

    recipe: Recipe
    folders: TrainingFolders
    worker: Worker
    records: RecordFile
    dev: DevSet | None
    family: TrainedFamily
    base_commit: str | None
    sampler: GroupSampler
    steps: int
    precision: str
    autocast: AbstractContextManager[Any]
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    checkpoints: CheckpointStore

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: up in a line, then down in a line to zero."""
        warmup_steps = round(self.recipe.warmup_fraction * self.steps)
        if step < warmup_steps:
            return self.recipe.learning_rate * ((step + 1) / warmup_steps)
        return self.recipe.learning_rate * ((self.steps - step) / max(1, self.steps - warmup_steps))

    def losses(self, batch: Batch, step: int) -> Iterator[torch.Tensor]:
        """Yield the sum of the losses of each micro-batch; take its gradient before the next one."""
        parts = micro_batches(batch.groups, self.recipe.micro_batch_tokens)
        if self.recipe.in_batch_negatives:
            # The recipe refuses them for a family that does not read query and passages apart.
            apart = cast(ReadsApart, self.family)
            yield from in_batch_losses(apart, parts, batch.shares, step, self.worker, self.autocast)
            return
        for groups in parts:
            with self.autocast:
                logits = self.family.logits(groups, step)  # (passages,)
            yield self.family.loss(logits, groups)

    def resume(self) -> tuple[int, Progress]:
        """Load the newest checkpoint that all workers have; return its step, 0 without one, and the progress until then."""
        step = max(self.worker.all_have(self.checkpoints.steps()), default=0)
        if not step:
            return 0, Progress()
        progress = self.checkpoints.load(step, self.worker.device)
        self.worker.say(f"Resuming after step {step} of {self.steps}.")
        if self.recipe.early_stop_patience:
            best_step = int(progress.best["step"])
            # The first worker's answer counts for all: they must stop at the same step.
            (lost,) = self.worker.all_reduce(
                float(self.worker.rank == 0 and not self.checkpoints.mend_best(best_step, resumed=step))
            )
            if lost:
                self.worker.say(f"The best weights, after step {best_step}, cannot be read: looking for others from here.")
                progress.best, progress.evaluations_since_best = {}, 0
        return step, progress
