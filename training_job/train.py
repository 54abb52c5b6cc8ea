"""Fine-tune a cross-encoder: the whole training run, from the records to the saved model.

    python -m training_job.train                                  one process
    torchrun --nnodes=2 --node_rank=0 … -m training_job.train     one of many

Each worker finds its place in the variables that torchrun sets. One optimiser step sees `batch_queries` groups over all
workers together; each computes its share without padding, as many whole groups at once as `micro_batch_tokens` holds, and
their gradients add up: the same recipe gives the same gradient on one process and on many.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ko_reranker.container import JobError, TrainingFolders, base_dir, fail, read_hyperparameters, read_resources
from ko_reranker.models import ModelNotFoundError, resolve_model
from ko_reranker.rankers.cross_encoder import SETTINGS_FILE, position_limit
from ko_reranker.rankers.pairs import PairEncoder
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.groups import GroupSampler, group_loss, micro_batches, read_ahead
from training_job.loop.metrics import MetricsLog, Progress, Rates
from training_job.loop.packed import PackedClassifier, load_classifier
from training_job.loop.run_card import RUN_CARD_FILE, run_card
from training_job.loop.worker import Interrupted, Worker, catch_sigterm, join, leave, precision_on, reason
from training_job.settings import Recipe, load_recipe

# A run may be resumed with other values of these: they change how it is computed and told, not what comes out.
_FREE_TO_CHANGE = {
    "micro_batch_tokens",
    "gradient_checkpointing",
    "checkpoint_every_steps",
    "log_every_steps",
    "instance_usd_per_hour",
}


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
    model, tokenizer = _load_base(recipe)
    max_length = min(recipe.max_length, position_limit(model))
    encoder = PairEncoder(tokenizer, max_length)
    sampler = GroupSampler(records, encoder, group_size=recipe.group_size, batch_queries=recipe.batch_queries, seed=recipe.seed)
    dev = _open_dev(folders.dataset / "dev.jsonl", encoder, recipe, worker)
    steps = max(1, round(recipe.epochs * sampler.steps_per_epoch))
    warmup_steps = round(recipe.warmup_fraction * steps)
    precision, remark = precision_on(worker.device, recipe.precision)
    if remark:
        worker.say(remark)
    model.to(worker.device).train()
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable()
    classifier = PackedClassifier(model, recipe.seed)

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
    autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    # A checkpoint belongs to one recipe and one dataset.
    identity = recipe.model_dump(exclude=_FREE_TO_CHANGE) | {"dataset_sha256": records.sha256}
    store = CheckpointStore(folders.checkpoints, identity, model, optimizer, scaler)
    first_step = max(worker.common(store.steps()), default=0)
    progress = Progress()
    if first_step:
        progress = store.load(first_step, worker.device)
        worker.say(f"Resuming after step {first_step} of {steps}.")
    worker.say(
        f"{len(records)} records, {steps} steps of {recipe.batch_queries} queries over {worker.world} worker(s) on "
        f"{worker.device.type}, {precision}: up to {recipe.micro_batch_tokens} tokens at once, none of them padding; groups of "
        f"up to {recipe.group_size}, {max_length} tokens a pair."
    )

    # The loop.
    with catch_sigterm() as terminated, _metrics(folders, steps, progress, worker) as tell:
        rates = Rates(progress)

        def look(done: int) -> None:
            """Look at dev; with early stopping, keep the weights if they are the best."""
            values = dev.look(classifier, worker, recipe.micro_batch_tokens)
            better = progress.looked(done, values)
            tell(done, epoch=done / sampler.steps_per_epoch, **values)
            if recipe.early_stop_patience and worker.leads:
                if better:
                    store.save_best(done)
                if done:
                    store.save(done, progress)
                store.drop_best_but(progress.best["step"])

        if dev and not first_step:
            look(0)  # what training has to improve on
        done = first_step
        for step, batch in read_ahead(lambda step: sampler.batch(step, worker.rank, worker.world), range(first_step, steps)):
            if _without_gain(progress, recipe):
                break
            learning_rate = recipe.learning_rate * _schedule(step, steps, warmup_steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate
            # What a GPU draws is a function of the step, too: a resumed run draws what the uninterrupted one would have.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * worker.world + worker.rank)

            step_loss = torch.zeros((), device=worker.device)
            for groups in micro_batches(batch.groups, recipe.micro_batch_tokens):
                with torch.autocast(worker.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                    logits = classifier.logits(groups, step)  # (pairs,)
                loss = group_loss(
                    logits,
                    groups,
                    distillation_weight=recipe.distillation_weight,
                    temperature=recipe.distillation_temperature,
                )
                loss = loss / batch.queries  # the batch's mean, over all workers and micro-batches
                scaler.scale(loss).backward()
                step_loss += loss.detach()

            # Who is told to stop tells all: they leave at the same step, or those left would wait for ever.
            tokens, sequences = (sum(group.tokens for group in batch.groups), sum(len(group.pairs) for group in batch.groups))
            progress.loss, tokens, sequences, told_to_stop = worker.totals(
                step_loss.item(), tokens, sequences, float(terminated.is_set)
            )
            worker.add_up(trained)
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
                look(done)
                rates.update()
            if worker.leads and (done % recipe.checkpoint_every_steps == 0 or told_to_stop):
                store.save(done, progress)
            if told_to_stop:
                raise Interrupted(f"Stopped after step {done} of {steps}; its checkpoint is written.")

    # The model.
    if worker.leads:
        saved_step = done
        if recipe.early_stop_patience and progress.best["step"] != done:
            saved_step = int(progress.best["step"])
            store.load_best(saved_step, worker.device)
            worker.say(f"No look at dev after step {saved_step} was better: its weights are the ones saved.")
        settings = {"family": "cross_encoder", "max_length": max_length, "base_model": recipe.base_model, "recipe": recipe.name}
        card = run_card(
            recipe=recipe,
            precision=precision,
            records=records,
            progress=progress,
            steps=steps,
            saved_step=saved_step,
            worker=worker,
            resources=read_resources(folders.config),
        )
        _save(model, tokenizer, folders.model, settings, card)
        worker.say(
            f"Saved {folders.model} after {card['seconds']:.0f} s of training: {card['queries_per_second']:.1f} queries and "
            f"{card['tokens_per_second']:.0f} tokens a second."
        )


def main() -> int:
    """Run as a worker; a failure is written to output/failure in one sentence, and told to the other hosts."""
    folders = TrainingFolders(base_dir())
    try:
        worker = join()
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
    if records.without_negatives == len(records):
        raise JobError(f"No record of {path.name} has a negative: mine negatives first (mine_negatives), or put some in `neg`.")
    if records.without_negatives:
        worker.say(f"{records.without_negatives} of {len(records)} records have no negative and teach nothing.")
    if recipe.distillation_weight:
        if not records.with_scores:
            raise JobError(
                f"distillation_weight is {recipe.distillation_weight:g}, but no record of {path.name} has pos_scores and "
                "neg_scores: mine with a teacher, or set it to 0."
            )
        if records.with_scores < len(records):
            worker.say(f"{len(records) - records.with_scores} of {len(records)} records have no teacher's scores.")
    return records


def _open_dev(path: Path, encoder: PairEncoder, recipe: Recipe, worker: Worker) -> DevSet | None:
    if not recipe.dev_queries:
        return None
    if path.is_file() and path.stat().st_size:
        dev = DevSet(path, encoder, group_size=recipe.group_size, queries=recipe.dev_queries, seed=recipe.seed)
        if dev.chosen:
            return dev
    if recipe.early_stop_patience:
        raise JobError(f"early_stop_patience needs a {path.name} beside train.jsonl with negatives; set it to 0 to go without.")
    worker.say(f"There is no {path.name} with negatives: nothing to look at during training.")
    return None


def _load_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        folder = resolve_model(recipe.base_model)
        # A head that the base does not have starts from the seed, on every worker the same.
        torch.manual_seed(recipe.seed)
        return load_classifier(folder), AutoTokenizer.from_pretrained(folder)
    except ModelNotFoundError as error:
        raise JobError(f"base_model: {error}") from None
    except (OSError, ValueError) as error:
        raise JobError(f"base_model {recipe.base_model} cannot be loaded as a sequence classifier: {error}") from error


def _trained(model: PreTrainedModel) -> list[torch.nn.Parameter]:
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
    return 0 < recipe.early_stop_patience <= progress.looks_since_best


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
def _metrics(folders: TrainingFolders, steps: int, progress: Progress, worker: Worker) -> Iterator:
    """Give what tells the values after a step; of the workers, the first one tells."""
    if not worker.leads:
        yield lambda step, **values: None
        return
    log = MetricsLog(folders.output_data, steps, progress.history)
    try:
        yield log.tell
    finally:
        log.close()


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, settings: dict, card: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, value in ((SETTINGS_FILE, settings), (RUN_CARD_FILE, card)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
