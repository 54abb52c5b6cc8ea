"""Fine-tune a ranker of any family: the whole training run, from the records to the saved model.

    python -m training_job.train                                  one process
    torchrun --nnodes=2 --node_rank=0 … -m training_job.train     one of many

Each worker finds its place in the variables that torchrun sets. One optimiser step sees `batch_queries` groups over all
workers together; each computes its share without padding, as many whole groups at once as `micro_batch_tokens` holds, and
their gradients add up: the same recipe gives the same gradient on one process and on many.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from ko_reranker.container import JobError, TrainingFolders, base_dir, fail, read_hyperparameters, read_resources
from ko_reranker.data.jsonl import write_json
from ko_reranker.models import ModelNotFoundError, hub_commit, resolve_model
from ko_reranker.rankers.interface import RankerError
from ko_reranker.rankers.placing import served_dtype
from ko_reranker.recipes import Recipe
from ko_reranker.recipes.shipped import load_recipe
from ko_reranker.retraining.continuing import FREE_HYPERPARAMETERS
from training_job.families import load_family
from training_job.launch import DEVICE_VARIABLE
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.family import TrainedFamily
from training_job.loop.groups import Batch, Encode, GroupSampler, are_tied, micro_batches, read_ahead
from training_job.loop.in_batch import ReadsApart, in_batch_losses
from training_job.loop.metrics import MetricsLog, Progress, Rates
from training_job.loop.run_card import RUN_CARD_FILE, run_card
from training_job.loop.worker import (
    Interrupted,
    Worker,
    be_deterministic,
    catch_sigterm,
    join,
    leave,
    precision_on,
    reason,
    watch_others,
)


def train(recipe: Recipe, folders: TrainingFolders, worker: Worker) -> None:
    """Train by a recipe, resuming from the newest checkpoint if there is one, and save the model.

    Raises:
        JobError: the records, the model or the run make it impossible; the sentence says what to do.
        Interrupted: SIGTERM came; a checkpoint is written.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    # The records, the model.
    records = _open_records(folders.dataset / "train.jsonl", recipe, worker)
    family, base_commit = _load_base(recipe, worker.device)
    if records.with_instruction and not family.instructed:
        worker.say(f"{records.with_instruction} records have an instruction, which this model does not read.")
    model, encode = family.model, family.encode
    sampler = GroupSampler(
        records,
        encode,
        group_size=recipe.group_size,
        batch_queries=recipe.batch_queries,
        seed=recipe.seed,
        whole=recipe.in_batch_negatives,
    )
    dev = _open_dev(folders.dataset / "dev.jsonl", encode, recipe, worker)
    steps = max(1, round(recipe.epochs * sampler.steps_per_epoch))
    warmup_steps = round(recipe.warmup_fraction * steps)
    precision, remark = precision_on(worker.device, recipe.precision)
    if remark:
        worker.say(remark)

    # The optimiser; biases and norms are not decayed.
    trained = _trained(model)
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        fused=True,
    )
    scaler = torch.amp.GradScaler(worker.device.type, enabled=precision == "fp16")
    floating = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    autocast = torch.autocast(worker.device.type, floating, enabled=floating is not None)

    # A checkpoint belongs to one recipe and one dataset.
    identity = {name: value for name, value in asdict(recipe).items() if name not in FREE_HYPERPARAMETERS}
    identity["dataset_sha256"] = records.sha256
    store = CheckpointStore(folders.checkpoints, identity, model, optimizer, scaler)
    first_step = max(worker.all_have(store.steps()), default=0)
    progress = Progress()
    if first_step:
        progress = store.load(first_step, worker.device)
        worker.say(f"Resuming after step {first_step} of {steps}.")
        if recipe.early_stop_patience:
            # The first worker's answer counts for all: they must stop at the same step.
            (lost,) = worker.all_reduce(float(worker.rank == 0 and not store.mend_best(int(progress.best["step"]), first_step)))
            if lost:
                worker.say(
                    f"The best weights, after step {progress.best['step']}, cannot be read: looking for others from here."
                )
                progress.best, progress.evaluations_since_best = {}, 0
    worker.say(
        f"{len(records)} records, {steps} steps of {recipe.batch_queries} queries over {worker.world_size} worker(s) on "
        f"{worker.device.type}, {precision}: up to {recipe.micro_batch_tokens} tokens at once, none of them padding; groups of "
        f"up to {recipe.group_size}, {family.max_length} tokens a {family.reads}."
    )

    def losses(batch: Batch, step: int, worker: Worker) -> Iterator[torch.Tensor]:
        """Yield the sum of the losses of each micro-batch; take its gradient before the next one."""
        parts = micro_batches(batch.groups, recipe.micro_batch_tokens)
        if recipe.in_batch_negatives:
            # The recipe refuses them for a family that does not read query and passages apart.
            yield from in_batch_losses(cast(ReadsApart, family), parts, batch.shares, step, worker, autocast)
            return
        for groups in parts:
            with autocast:
                logits = family.logits(groups, step)  # (passages,)
            yield family.loss(logits, groups)

    if worker.device.type == "cuda":
        share = sampler.batch(first_step, worker.rank, worker.world_size).groups
        first = micro_batches(share, recipe.micro_batch_tokens)[:1]
        alone = replace(worker, rank=0, world_size=1)
        remark = be_deterministic(
            lambda: [loss.backward() for part in first for loss in losses(Batch(part, 1, [part]), first_step, alone)]
        )
        optimizer.zero_grad(set_to_none=True)
        if remark:
            worker.say(remark)

    # The loop.
    with catch_sigterm() as terminated, _metrics(folders, steps, progress, worker) as tell:
        rates = Rates(progress)

        def evaluate(done: int, *, again: bool = False) -> None:
            """Evaluate on dev; with early stopping, keep the weights if they are the best."""
            assert dev is not None  # noqa: S101 - nobody evaluates without it
            values = dev.evaluate(family, worker, recipe.micro_batch_tokens, served_dtype("auto", worker.device))
            better = progress.evaluated(done, values)
            if not again:
                tell(done, epoch=done / sampler.steps_per_epoch, **values)
            if recipe.early_stop_patience and worker.rank == 0:
                if better:
                    store.save_best(done)
                if done:
                    store.save(done, progress)
                store.drop_best_but(int(progress.best["step"]))

        if dev and not first_step:
            evaluate(0)  # what training has to improve on
        elif dev and recipe.early_stop_patience and not progress.best:
            evaluate(first_step, again=True)
        done = first_step
        for step, batch in read_ahead(
            lambda step: sampler.batch(step, worker.rank, worker.world_size), range(first_step, steps)
        ):
            if _without_gain(progress, recipe):
                break
            learning_rate = recipe.learning_rate * _schedule(step, steps, warmup_steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate
            # What a GPU draws is a function of the step, too: a resumed run draws what the uninterrupted one would have.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * worker.world_size + worker.rank)

            step_loss = torch.zeros((), device=worker.device)
            for loss in losses(batch, step, worker):
                loss = loss / batch.queries  # the batch's mean, over all workers and micro-batches
                scaler.scale(loss).backward()
                step_loss += loss.detach()

            # Who is told to stop tells all: they leave at the same step, or those left would wait for ever.
            own = (sum(group.tokens for group in batch.groups), sum(len(group.pairs) for group in batch.groups))
            progress.loss, tokens, sequences, cut, told_to_stop = worker.all_reduce(
                step_loss.item(), *own, sum(group.query_cut for group in batch.groups), float(terminated.is_set)
            )
            if cut and not progress.cut_queries:
                worker.say(f"Queries of more than {family.query_room} tokens are cut; the run card counts them.")
            progress.cut_queries += int(cut)
            worker.all_reduce_gradients(trained)
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.max_gradient_norm)
            _check_finite(progress.loss, norm, scaler, step + 1, recipe, precision)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            progress.queries += batch.queries
            progress.sequences += int(sequences)
            progress.tokens += int(tokens)
            rate = rates.update()

            if done % recipe.log_every_steps == 0 or done in (first_step + 1, steps):
                tell(
                    done,
                    epoch=done / sampler.steps_per_epoch,
                    loss=progress.loss,
                    learning_rate=learning_rate,
                    gradient_norm=norm.item(),
                    **rate,
                    eta_seconds=(steps - done) * recipe.batch_queries / rate["queries_per_second"],
                )
            if dev and (done % sampler.steps_per_epoch == 0 or done == steps):
                evaluate(done)
                rates.update()
            if worker.rank == 0 and (done % recipe.checkpoint_every_steps == 0 or told_to_stop):
                store.save(done, progress)
            if told_to_stop:
                raise Interrupted(f"Stopped after step {done} of {steps}; its checkpoint is written.")

    # The model.
    if worker.rank == 0:
        saved_step = done
        if recipe.early_stop_patience and progress.best["step"] != done:
            best_step = int(progress.best["step"])
            if store.load_best(best_step):
                saved_step = best_step
                worker.say(f"No evaluation on dev after step {saved_step} was better: its weights are the ones saved.")
            else:
                worker.say(f"The weights after step {best_step}, the best, cannot be read any more: the last ones are saved.")
        _refuse_tied(family, sampler, recipe, steps, saved_step)
        settings = {
            "family": recipe.family,
            "max_length": family.max_length,
            "base_model": recipe.base_model,
            "base_commit": base_commit,
            "recipe": recipe.name,
        }
        on_dev = [row for row in progress.history if row["step"] == saved_step and "dev_mrr" in row]
        fitted = family.finish(dev.batches(recipe.micro_batch_tokens) if dev else [], on_dev[-1]["dev_mrr"] if on_dev else None)
        for name, value in fitted.items():
            worker.say(f"On dev: {name} {value}")
        card = run_card(
            recipe=recipe,
            base_commit=base_commit,
            precision=precision,
            records=records,
            progress=progress,
            steps=steps,
            saved_step=saved_step,
            worker=worker,
            resources=read_resources(folders.config),
        )
        _save(family, folders.model, settings | fitted, card | fitted)
        worker.say(
            f"Saved {folders.model} after {card['seconds']:.0f} s of training: {card['queries_per_second']:.1f} queries and "
            f"{card['tokens_per_second']:.0f} tokens a second."
        )
        # Of a metric a tuning job takes the last value that it reads: that of the weights which are saved.
        if on_dev:
            worker.say(f"Result: dev_mrr={on_dev[-1]['dev_mrr']:.4f} dev_loss={on_dev[-1]['dev_loss']:.4f}")


def _refuse_tied(family: TrainedFamily, sampler: GroupSampler, recipe: Recipe, steps: int, saved_step: int) -> None:
    """Raise JobError when the model to be saved scores all passages of a query alike, for all queries of two batches."""
    seen = [group for step in {0, steps - 1} for group in sampler.batch(step).groups if len(group.pairs) > 1]
    family.model.eval()
    with torch.no_grad():
        parts = micro_batches(seen, recipe.micro_batch_tokens)
        tied = bool(parts) and all(are_tied(family.logits(part, step=0), part) for part in parts)
    if tied:
        raise JobError(
            f"After step {saved_step} all passages of a query score the same: the model has collapsed and ranks nothing. Lower "
            f"learning_rate (now {recipe.learning_rate:g}), raise warmup_fraction, or look at the records; early_stop_patience "
            "keeps the best weights of a run that goes wrong."
        )


def main() -> int:
    """Run as a worker; a failure is written to output/failure in one sentence, and told to the other hosts."""
    folders = TrainingFolders(base_dir())

    def give_up(sentence: str) -> None:
        fail(sentence, folders.failure)
        print(sentence, file=sys.stderr, flush=True)
        os._exit(1)  # the main thread waits in a collective, which no exception reaches

    try:
        worker = join(os.environ.get(DEVICE_VARIABLE) or "auto", read_resources(folders.config).instance_type)
        with watch_others(worker, give_up):
            train(load_recipe(read_hyperparameters(folders.config)), folders, worker)
            leave(worker)
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        return 143
    except Exception as error:
        sentence = reason(error)
        fail(sentence, folders.failure)
        print(sentence, file=sys.stderr, flush=True)
        return 1
    return 0


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


def _trained(model: nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters to train: all but those that the loss cannot see.

    The output's bias shifts all logits of a group alike, a key's bias all scores of a query alike: softmax takes both out. Adam
    would blow the rounding noise of their gradients up to whole steps, and the level of the scores would wander.
    """
    for name, parameter in model.named_parameters():
        if (name.endswith("bias") and parameter.numel() == 1) or name.endswith("self.key.bias"):
            parameter.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Return the share of the learning rate at a step: up in a line, then down in a line to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (steps - step) / max(1, steps - warmup_steps)


def _without_gain(progress: Progress, recipe: Recipe) -> bool:
    return 0 < recipe.early_stop_patience <= progress.evaluations_since_best


def _check_finite(
    loss: float, norm: torch.Tensor, scaler: torch.amp.GradScaler, step: int, recipe: Recipe, precision: str
) -> None:
    """Raise JobError when the run has blown up; with fp16, single overflows are the scaler's business."""
    blown = None
    if not math.isfinite(loss):
        blown = f"The loss became {loss}"
    elif not scaler.is_enabled() and not torch.isfinite(norm):
        blown = f"The gradient became {norm.item()}"
    elif scaler.is_enabled() and scaler.get_scale() < 1:
        blown = "The gradient overflowed fp16 again and again"
    if blown:
        raise JobError(
            f"{blown} at step {step}: lower learning_rate (now {recipe.learning_rate:g}), or use precision fp32 or bf16 "
            f"(now {precision})."
        )


@contextlib.contextmanager
def _metrics(folders: TrainingFolders, steps: int, progress: Progress, worker: Worker) -> Iterator[Callable[..., None]]:
    """Give what tells the values after a step; of the workers, the first one tells."""
    if worker.rank != 0:
        yield lambda step, **values: None
        return
    log = MetricsLog(folders.output_data, steps, progress.history)
    try:
        yield log.tell
    finally:
        log.close()


def _save(family: TrainedFamily, folder: Path, settings: dict[str, Any], card: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    family.save(folder, settings)
    write_json(folder / RUN_CARD_FILE, card)


if __name__ == "__main__":
    sys.exit(main())
