"""Fine-tune a cross-encoder: the whole training run, from the records to the saved model.

    python -m training_job.train                                  one process
    torchrun --nnodes=2 --node_rank=0 … -m training_job.train     one of many

Each worker finds its place in the variables that torchrun sets. One optimiser step sees `batch_queries` groups over all
workers together, each worker accumulating its share in micro-batches, so the same recipe gives the same gradient on one
process and on many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import ko_reranker
from ko_reranker.container import (
    SECONDARY_FAILURE,
    JobError,
    TrainingFolders,
    base_dir,
    describe,
    fail,
    read_hyperparameters,
)
from ko_reranker.data.jsonl import read_record_file
from ko_reranker.models import ModelNotFoundError, resolve_model
from ko_reranker.rankers.cross_encoder import SETTINGS_FILE, position_limit
from ko_reranker.rankers.pairs import PairEncoder
from training_job.checkpoints import CheckpointStore
from training_job.groups import GroupSampler, group_loss, micro_batches, share_of
from training_job.settings import Recipe, load_recipe

RUN_CARD_FILE = "run_card.json"


class Interrupted(Exception):
    """SIGTERM came (a spot instance goes, or somebody stopped the job): the checkpoint is written, nothing failed."""


@dataclass(frozen=True)
class Worker:
    """This process among the workers."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this worker speaks and writes for all."""
        return self.rank == 0

    def say(self, text: str) -> None:
        if self.leads:
            print(text, flush=True)

    def totals(self, *values: float) -> list[float]:
        """Return the sums of some numbers over all workers."""
        if self.world == 1:
            return list(values)
        cells = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(cells)
        return cells.tolist()


def train(recipe: Recipe, folders: TrainingFolders, worker: Worker) -> None:
    """Train by a recipe, resuming from the newest checkpoint if there is one, and save the model.

    Raises:
        JobError: the records, the model or the run make it impossible; the sentence says what to do.
        Interrupted: SIGTERM came; a checkpoint is written.
    """
    torch.manual_seed(recipe.seed)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    # The records, the model.
    train_file = folders.dataset / "train.jsonl"
    records = _read_records(train_file, worker)
    model, tokenizer = _load_base(recipe)
    max_length = min(recipe.max_length, position_limit(model))
    sampler = GroupSampler(
        records,
        PairEncoder(tokenizer, max_length),
        group_size=recipe.group_size,
        batch_queries=recipe.batch_queries,
        seed=recipe.seed,
    )
    steps = max(1, round(recipe.epochs * sampler.steps_per_epoch))
    warmup_steps = round(recipe.warmup_fraction * steps)
    precision = _precision(recipe, worker)
    model.to(worker.device).train()

    # The loss cannot see the output's bias, which shifts all logits alike. Adam would blow the rounding noise of its
    # gradient up to whole steps and wander off with the level of the scores: it stays the base's.
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.numel() == 1:
            parameter.requires_grad_(False)

    # The optimiser; biases and norms are not decayed.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    scaler = torch.amp.GradScaler(worker.device.type, enabled=precision == "fp16")
    autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    # A checkpoint belongs to one recipe and one dataset.
    dataset_digest = _sha256(train_file)
    store = CheckpointStore(folders.checkpoints, recipe.model_dump() | {"dataset_sha256": dataset_digest})
    first_step = _common_step(store, worker)
    if first_step:
        store.load(first_step, model, optimizer, scaler, worker.device)
        worker.say(f"Resuming after step {first_step} of {steps}.")

    parallel = model
    if worker.world > 1:
        parallel = DistributedDataParallel(model, device_ids=[worker.local_rank] if worker.device.type == "cuda" else None)
    worker.say(
        f"{len(records)} records, {steps} steps of {recipe.batch_queries} queries over {worker.world} worker(s) on "
        f"{worker.device.type}, {precision}: {_rounds(recipe, worker.world)} accumulation round(s) of up to "
        f"{recipe.micro_batch_queries} queries; groups of up to {recipe.group_size}, {max_length} tokens a pair."
    )

    # The loop.
    started, queries_done, tokens_done = time.monotonic(), 0, 0
    with _catch_sigterm() as terminated:
        for step in range(first_step, steps):
            learning_rate = recipe.learning_rate * _schedule(step, steps, warmup_steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate
            # Dropout is a function of the step too: a resumed run draws what the uninterrupted one would have.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * worker.world + worker.rank)

            groups = sampler.batch(step)
            mine = share_of(groups, worker.rank, worker.world)
            # A short last batch can leave a worker without a group; it takes part with one that weighs nothing.
            rounds = list(micro_batches(mine, recipe.micro_batch_queries)) or [groups[:1]]
            step_loss = 0.0
            for number, micro_batch in enumerate(rounds, start=1):
                pairs = [pair for group in micro_batch for pair in group.pairs]
                inputs = {key: value.to(worker.device) for key, value in sampler.encoder.pad(pairs).items()}
                last_round = number == len(rounds)
                synchronised = contextlib.nullcontext() if worker.world == 1 or last_round else parallel.no_sync()
                with synchronised:
                    with torch.autocast(worker.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                        logits = parallel(**inputs).logits[:, 0]  # (pairs,)
                    loss = group_loss(logits, [len(group.pairs) for group in micro_batch]) / len(groups)
                    loss = loss if mine else loss * 0.0
                    # DDP takes the mean over workers; times their number, it is the sum that the batch's mean needs.
                    scaler.scale(loss * worker.world).backward()
                step_loss += loss.item()
                tokens_done += int(inputs["attention_mask"].sum()) if mine else 0

            # Who is told to stop tells all: they leave at the same step, or those left would wait for ever.
            step_loss, told_to_stop = worker.totals(step_loss, float(terminated.is_set))
            if not math.isfinite(step_loss):
                raise JobError(
                    f"The loss became {step_loss} at step {step + 1}: lower learning_rate (now {recipe.learning_rate:g}), "
                    f"or use precision fp32 or bf16 (now {precision})."
                )
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_gradient_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            queries_done += len(groups)

            done = step + 1
            if done % recipe.log_every_steps == 0 or done in (first_step + 1, steps):
                rate = queries_done / (time.monotonic() - started)
                left = (steps - done) * recipe.batch_queries / rate
                worker.say(
                    f"step={done}/{steps} epoch={done / sampler.steps_per_epoch:.2f} loss={step_loss:.4f} "
                    f"learning_rate={learning_rate:.1e} queries_per_second={rate:.1f} eta_seconds={left:.0f}"
                )
            if worker.leads and (done % recipe.checkpoint_every_steps == 0 or told_to_stop):
                store.save(done, model, optimizer, scaler)
            if told_to_stop:
                raise Interrupted(f"Stopped after step {done} of {steps}; its checkpoint is written.")

    seconds = time.monotonic() - started
    (tokens,) = worker.totals(tokens_done)
    if worker.leads:
        settings = {"family": "cross_encoder", "max_length": max_length, "base_model": recipe.base_model, "recipe": recipe.name}
        card = {
            "recipe": recipe.model_dump(),
            "precision_used": precision,
            "dataset": {"sha256": dataset_digest, "records": len(records)},
            "steps": steps,
            "resumed_after_step": first_step or None,
            "workers": worker.world,
            "device": torch.cuda.get_device_name() if worker.device.type == "cuda" else platform.machine(),
            "final_loss": round(step_loss, 6) if steps > first_step else None,
            "seconds": round(seconds, 2),
            "queries_per_second": round(queries_done / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
            "versions": {
                "ko_reranker": ko_reranker.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
            },
        }
        _save(model, tokenizer, folders.model, settings, card)
        worker.say(f"Saved {folders.model} after {seconds:.0f} s, {queries_done / seconds:.1f} queries a second.")


def main() -> int:
    """Run as a worker; a failure is written to output/failure in one sentence, and told to the other hosts."""
    folders = TrainingFolders(base_dir())
    notes: dist.Store | None = None
    try:
        worker = _join()
        if worker.world > 1:
            # On a cluster the workers' store also carries the reason of a failure from host to host.
            notes = dist.distributed_c10d._get_default_store()
        train(load_recipe(read_hyperparameters(folders.config)), folders, worker)
        if worker.world > 1:
            dist.barrier()
            dist.destroy_process_group()
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        return 143
    except Exception as error:
        sentence = _reason(error, notes)
        fail(sentence, folders.failure)
        print(sentence, file=sys.stderr, flush=True)
        return 1
    return 0


def _join() -> Worker:
    """Find this process's place and meet the others."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    return Worker(rank, world, local_rank, device)


def _reason(error: Exception, notes: dist.Store | None) -> str:
    """Return the sentence of a failure: the error's own, or that of the host that failed first."""
    connection_lost = isinstance(error, (dist.DistError, ConnectionError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
    )
    own = describe(error)
    if notes is None:
        return own
    with contextlib.suppress(Exception):  # the store may be gone with its host: then there is nothing to learn or to tell
        if not connection_lost:
            notes.set("failure", own)
            return own
        notes.set_timeout(timedelta(seconds=2))
        return f"{SECONDARY_FAILURE}: {notes.get('failure').decode()}"
    return f"{SECONDARY_FAILURE} ({own})" if connection_lost else own


def _read_records(path: Path, worker: Worker) -> list:
    try:
        records = list(read_record_file(path))
    except FileNotFoundError:
        raise JobError(f"There is no train.jsonl in {path.parent}: name the channel of the records `dataset`.") from None
    except ValueError as error:
        raise JobError(f"{error}.") from None
    without = sum(not record.negatives for record in records)
    if without == len(records):
        raise JobError(f"No record of {path.name} has a negative: mine negatives first (mine_negatives), or put some in `neg`.")
    if without:
        worker.say(f"{without} of {len(records)} records have no negative and teach nothing.")
    return records


def _load_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        folder = resolve_model(recipe.base_model)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(folder)
    except ModelNotFoundError as error:
        raise JobError(f"base_model: {error}") from None
    except (OSError, ValueError) as error:
        raise JobError(f"base_model {recipe.base_model} cannot be loaded as a sequence classifier: {error}") from error


def _precision(recipe: Recipe, worker: Worker) -> str:
    if recipe.precision == "fp16" and worker.device.type == "cpu":
        worker.say("precision fp16 needs a GPU: training in fp32.")
        return "fp32"
    return recipe.precision


def _rounds(recipe: Recipe, world: int) -> int:
    return math.ceil(math.ceil(recipe.batch_queries / world) / recipe.micro_batch_queries)


def _schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: up in a line over the warm-up, then down in a line to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (steps - step) / max(1, steps - warmup_steps)


def _common_step(store: CheckpointStore, worker: Worker) -> int:
    """Return the newest step of which every worker has a checkpoint, 0 if there is none."""
    mine = store.steps()
    if worker.world == 1:
        return max(mine, default=0)
    everyone: list[list[int]] = [[]] * worker.world
    dist.all_gather_object(everyone, mine)
    return max(set(everyone[0]).intersection(*everyone[1:]), default=0)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, settings: dict, card: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for name, value in ((SETTINGS_FILE, settings), (RUN_CARD_FILE, card)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass
class _Flag:
    is_set: bool = False


@contextlib.contextmanager
def _catch_sigterm() -> Iterator[_Flag]:
    """Turn SIGTERM into a flag that the loop looks at after each step."""
    flag = _Flag()

    def remember(*_: object) -> None:
        flag.is_set = True

    previous = signal.signal(signal.SIGTERM, remember)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
