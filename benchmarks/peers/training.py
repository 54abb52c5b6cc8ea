"""A peer's trainer on the benchmark's records, in the peer's own environment; see benchmarks/training.py.

    .venv-peers-transformers/bin/python -m benchmarks.peers.training JOB.json

Reads the job (trainer, loss, micro_batch, batch, steps, model, records, threads, gradient) and prints one JSON line: the
CPU-seconds of each optimiser step, from the end of the one before it, data loading included. A job without a trainer has model
and pairs instead: the scores that both libraries' rerankers give the pairs are printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

QUERY_TOKENS, PASSAGE_TOKENS = 64, 448


class Clock(TrainerCallback):
    """CPU-seconds between the ends of steps, and the gradient of the first."""

    def __init__(self, gradient: str | None) -> None:
        self.seconds: list[float] = []
        self._before = 0.0
        self._gradient = gradient

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._gradient:
            from safetensors.torch import save_file

            grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
            save_file({name.removeprefix("model."): grad.contiguous() for name, grad in grads.items()}, self._gradient)
            self._gradient = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._before = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.process_time()
        self.seconds.append(now - self._before)
        self._before = now


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def arguments(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """What both trainers share: the recipe's optimiser, and nothing that costs time beside training."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job["micro_batch"],
        "gradient_accumulation_steps": job["batch"] // job["micro_batch"],
        "max_steps": job["steps"],
        "learning_rate": 5e-6,
        "weight_decay": 0.01,
        "max_grad_norm": 1e9 if job["gradient"] else 1.0,  # the gradient is looked at as it comes
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
    }


def flagembedding(job: dict[str, Any], clock: Clock, folder: str) -> None:
    from FlagEmbedding.abc.finetune.reranker import (
        AbsRerankerCollator,
        AbsRerankerDataArguments,
        AbsRerankerTrainDataset,
        AbsRerankerTrainingArguments,
    )
    from FlagEmbedding.finetune.reranker.encoder_only.base.modeling import CrossEncoderModel
    from FlagEmbedding.finetune.reranker.encoder_only.base.trainer import EncoderOnlyRerankerTrainer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    base = AutoModelForSequenceClassification.from_pretrained(job["model"])
    model = CrossEncoderModel(
        without_dropout(base) if job["gradient"] else base, tokenizer=tokenizer, train_batch_size=job["micro_batch"]
    )
    lengths = {"query_max_len": QUERY_TOKENS, "passage_max_len": PASSAGE_TOKENS}
    data = AbsRerankerDataArguments(train_data=[job["records"]], train_group_size=3, cache_path=f"{folder}/cache", **lengths)
    dataset = AbsRerankerTrainDataset(data, tokenizer)
    trainer = EncoderOnlyRerankerTrainer(
        model=model,
        args=AbsRerankerTrainingArguments(**arguments(job, folder), remove_unused_columns=False),
        train_dataset=dataset,
        data_collator=AbsRerankerCollator(tokenizer=tokenizer, padding=True, return_tensors="pt", **lengths),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer._get_train_sampler = lambda *_, **__: SequentialSampler(dataset)
    trainer.train()


def sentence_transformers(job: dict[str, Any], clock: Clock, folder: str) -> None:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses

    model = CrossEncoder(job["model"], max_length=QUERY_TOKENS + PASSAGE_TOKENS, device="cpu")
    rows = [json.loads(line) for line in Path(job["records"]).read_text(encoding="utf-8").splitlines()]
    if job["loss"] == "MultipleNegativesRankingLoss":
        columns = [{"query": row["query"], "pos": row["pos"][0], "neg1": row["neg"][0], "neg2": row["neg"][1]} for row in rows]
        identity = torch.nn.Identity()
        loss = losses.MultipleNegativesRankingLoss(model, num_negatives=None, scale=1.0, activation_fn=identity)
    else:
        # Its softmax over the labels makes them one-hot: the same cross-entropy as everybody else's.
        columns = [{"query": row["query"], "docs": [*row["pos"], *row["neg"]], "labels": [100.0, 0.0, 0.0]} for row in rows]
        loss = losses.ListNetLoss(model, mini_batch_size=-1)
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**arguments(job, folder)),
        train_dataset=Dataset.from_list(columns),
        loss=loss,
        callbacks=[clock],
    )
    trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)
    trainer.train()


def scores(job: dict[str, Any]) -> dict[str, list[float]]:
    """Return the logits of some pairs, from a folder that each library loads as any cross-encoder."""
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    one = FlagReranker(job["model"], use_fp16=False, devices="cpu", max_length=job["max_length"])
    other = CrossEncoder(job["model"], device="cpu", max_length=job["max_length"])
    return {
        "flagembedding": [float(score) for score in one.compute_score(job["pairs"])],
        "sentence-transformers": other.predict(job["pairs"], activation_fn=torch.nn.Identity()).tolist(),
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    if "trainer" not in job:
        print(json.dumps(scores(job)), flush=True)
        return
    clock = Clock(job["gradient"])
    trainers = {"flagembedding": flagembedding, "sentence-transformers": sentence_transformers}
    with tempfile.TemporaryDirectory() as folder:
        trainers[job["trainer"]](job, clock, folder)
    print(json.dumps({"seconds": clock.seconds}), flush=True)


if __name__ == "__main__":
    main()
