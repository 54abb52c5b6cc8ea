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
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
import transformers

from ko_reranker.container import JobError, TrainingFolders, base_dir, fail, read_hyperparameters, read_resources
from ko_reranker.data.jsonl import write_json
from ko_reranker.rankers.placing import served_dtype
from ko_reranker.recipes import Recipe
from ko_reranker.recipes.shipped import load_recipe
from training_job.launch import DEVICE_VARIABLE
from training_job.loop.groups import Batch, are_tied, micro_batches, read_ahead
from training_job.loop.metrics import MetricsLog, Progress, Rates
from training_job.loop.run_card import RUN_CARD_FILE, run_card
from training_job.loop.training_run import TrainingRun
from training_job.loop.worker import (
    Interrupted,
    Worker,
    be_deterministic,
    catch_sigterm,
    join,
    leave,
    reason,
    watch_others,
)
from training_job.set_up import set_up


class Tell(Protocol):
    """Tells the values after a step, as `MetricsLog.tell` does."""

    def __call__(self, step: int, **values: float) -> None: ...


def train(recipe: Recipe, folders: TrainingFolders, worker: Worker) -> None:
    """Train by a recipe, resuming from the newest checkpoint if there is one, and save the model.

    Raises:
        JobError: the records, the model or the run make it impossible; the sentence says what to do.
        Interrupted: SIGTERM came; a checkpoint is written.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    run = set_up(recipe, folders, worker)
    family, sampler, steps, optimizer, scaler = run.family, run.sampler, run.steps, run.optimizer, run.scaler
    first_step, progress = run.resume()
    worker.say(
        f"{len(run.records)} records, {steps} steps of {recipe.batch_queries} queries over {worker.world_size} worker(s) on "
        f"{worker.device.type}, {run.precision}: up to {recipe.micro_batch_tokens} tokens at once, none of them padding; "
        f"groups of up to {recipe.group_size}, {family.max_length} tokens a {family.reads}."
    )
    if worker.device.type == "cuda":
        _be_deterministic(run, first_step)

    with catch_sigterm() as terminated, _metrics(run, progress) as tell:
        rates = Rates(progress)
        if run.dev and not first_step:
            _evaluate(run, progress, 0, tell)  # what training has to improve on
        elif run.dev and recipe.early_stop_patience and not progress.best:
            _evaluate(run, progress, first_step, _say_nothing)  # its values were told before
        done = first_step
        for step, batch in read_ahead(
            lambda step: sampler.batch(step, worker.rank, worker.world_size), range(first_step, steps)
        ):
            if 0 < recipe.early_stop_patience <= progress.evaluations_since_best:
                break
            learning_rate = run.learning_rate(step)
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate
            # What a GPU draws is a function of the step, too: a resumed run draws what the uninterrupted one would have.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * worker.world_size + worker.rank)

            step_loss = torch.zeros((), device=worker.device)
            for loss in run.losses(batch, step):
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
            progress.queries += batch.queries
            progress.sequences += int(sequences)
            progress.tokens += int(tokens)

            worker.all_reduce_gradients(run.trained)
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(run.trained, recipe.max_gradient_norm)
            _check_finite(run, progress.loss, norm, step + 1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
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
            if run.dev and (done % sampler.steps_per_epoch == 0 or done == steps):
                _evaluate(run, progress, done, tell)
                rates.update()
            if worker.rank == 0 and (done % recipe.checkpoint_every_steps == 0 or told_to_stop):
                run.checkpoints.save(done, progress)
            if told_to_stop:
                raise Interrupted(f"Stopped after step {done} of {steps}; its checkpoint is written.")

    if worker.rank == 0:
        _save_model(run, progress, done)


def _be_deterministic(run: TrainingRun, step: int) -> None:
    """Make a GPU choose deterministic kernels where a rehearsal with one micro-batch of a step shows that there are any."""
    share = run.sampler.batch(step, run.worker.rank, run.worker.world_size).groups
    first = micro_batches(share, run.recipe.micro_batch_tokens)[:1]
    alone = replace(run, worker=replace(run.worker, rank=0, world_size=1))
    remark = be_deterministic(
        lambda: [loss.backward() for part in first for loss in alone.losses(Batch(part, 1, [part]), step)]
    )
    run.optimizer.zero_grad(set_to_none=True)
    if remark:
        run.worker.say(remark)


def _evaluate(run: TrainingRun, progress: Progress, step: int, tell: Tell) -> None:
    """Evaluate on dev, which must be there; with early stopping, keep the weights if they are the best."""
    assert run.dev is not None  # noqa: S101 - nobody evaluates without it
    recipe, worker = run.recipe, run.worker
    values = run.dev.evaluate(run.family, worker, recipe.micro_batch_tokens, served_dtype("auto", worker.device))
    better = progress.evaluated(step, values)
    tell(step, epoch=step / run.sampler.steps_per_epoch, **values)
    if recipe.early_stop_patience and worker.rank == 0:
        if better:
            run.checkpoints.save_best(step)
        if step:
            run.checkpoints.save(step, progress)
        run.checkpoints.drop_best_but(int(progress.best["step"]))


def _check_finite(run: TrainingRun, loss: float, norm: torch.Tensor, step: int) -> None:
    """Raise JobError when the run has blown up; with fp16, single overflows are the scaler's business."""
    blown = None
    if not math.isfinite(loss):
        blown = f"The loss became {loss}"
    elif not run.scaler.is_enabled() and not torch.isfinite(norm):
        blown = f"The gradient became {norm.item()}"
    elif run.scaler.is_enabled() and run.scaler.get_scale() < 1:
        blown = "The gradient overflowed fp16 again and again"
    if blown:
        raise JobError(
            f"{blown} at step {step}: lower learning_rate (now {run.recipe.learning_rate:g}), or use precision fp32 or bf16 "
            f"(now {run.precision})."
        )


@contextlib.contextmanager
def _metrics(run: TrainingRun, progress: Progress) -> Iterator[Tell]:
    """Give what tells the values after a step; of the workers, the first one tells."""
    if run.worker.rank != 0:
        yield _say_nothing
        return
    log = MetricsLog(run.folders.output_data, run.steps, progress.history)
    try:
        yield log.tell
    finally:
        log.close()


def _say_nothing(step: int, **values: float) -> None:
    """Tell nobody the values after a step."""


def _save_model(run: TrainingRun, progress: Progress, done: int) -> None:
    """Save the last weights, or with early stopping the best ones, and say what became of them."""
    recipe, worker, family = run.recipe, run.worker, run.family
    saved_step = done
    if recipe.early_stop_patience and progress.best["step"] != done:
        saved_step = _load_best(run, int(progress.best["step"]), done)
    _refuse_tied(run, saved_step)
    settings = {
        "family": recipe.family,
        "max_length": family.max_length,
        "base_model": recipe.base_model,
        "base_commit": run.base_commit,
        "recipe": recipe.name,
    }
    on_dev = [row for row in progress.history if row["step"] == saved_step and "dev_mrr" in row]
    dev_batches = run.dev.batches(recipe.micro_batch_tokens) if run.dev else []
    fitted = family.finish(dev_batches, on_dev[-1]["dev_mrr"] if on_dev else None)
    for name, value in fitted.items():
        worker.say(f"On dev: {name} {value}")
    card = run_card(run, progress, saved_step)
    run.folders.model.mkdir(parents=True, exist_ok=True)
    family.save(run.folders.model, settings | fitted)
    write_json(run.folders.model / RUN_CARD_FILE, card | fitted)
    worker.say(
        f"Saved {run.folders.model} after {card['seconds']:.0f} s of training: {card['queries_per_second']:.1f} queries and "
        f"{card['tokens_per_second']:.0f} tokens a second."
    )
    # Of a metric a tuning job takes the last value that it reads: that of the weights which are saved.
    if on_dev:
        worker.say(f"Result: dev_mrr={on_dev[-1]['dev_mrr']:.4f} dev_loss={on_dev[-1]['dev_loss']:.4f}")


def _load_best(run: TrainingRun, best_step: int, done: int) -> int:
    """Put the best weights into the model, if they can be read; return the step whose weights it has then."""
    if run.checkpoints.load_best(best_step):
        run.worker.say(f"No evaluation on dev after step {best_step} was better: its weights are the ones saved.")
        return best_step
    run.worker.say(f"The weights after step {best_step}, the best, cannot be read any more: the last ones are saved.")
    return done


def _refuse_tied(run: TrainingRun, saved_step: int) -> None:
    """Raise JobError when the model to be saved scores all passages of a query alike, for all queries of two batches."""
    seen = [group for step in {0, run.steps - 1} for group in run.sampler.batch(step).groups if len(group.pairs) > 1]
    run.family.model.eval()
    with torch.no_grad():
        parts = micro_batches(seen, run.recipe.micro_batch_tokens)
        tied = bool(parts) and all(are_tied(run.family.logits(part, step=0), part) for part in parts)
    if tied:
        raise JobError(
            f"After step {saved_step} all passages of a query score the same: the model has collapsed and ranks nothing. Lower "
            f"learning_rate (now {run.recipe.learning_rate:g}), raise warmup_fraction, or look at the records; "
            "early_stop_patience keeps the best weights of a run that goes wrong."
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


if __name__ == "__main__":
    sys.exit(main())
