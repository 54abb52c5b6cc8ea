"""Training on a GPU: the CPU's gradient, the same weights twice and after an interruption, several GPUs, a lost worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_models import CONFIGS, make_pairs, saved
from safetensors.torch import load_file

from ko_reranker.container import TrainingFolders
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.engine import attention
from ko_reranker.models import resolve_model
from ko_reranker.recipes.shipped import load_recipe
from ko_reranker.samples import paths
from training_job.families import load_family
from training_job.launch import run_training
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.groups import Group, group_loss
from training_job.loop.packed import PackedClassifier, load_classifier
from training_job.loop.worker import Worker, be_deterministic
from training_job.train import train

pytestmark = pytest.mark.gpu

T4 = (7, 5)
RECIPE = {"recipe": "mini", "epochs": "1", "batch_queries": "16", "checkpoint_every_steps": "2", "log_every_steps": "1"}
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")


@pytest.fixture(autouse=True)
def deterministic_as_before():
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def some_groups(*, typed: bool) -> list[Group]:
    return [Group(record, tuple(make_pairs([180, 33, 97, 5], typed=typed, seed=record))) for record in range(4)]


def gradients(folder: Path, device: str, autocast: torch.dtype | None = None, *, typed: bool) -> dict[str, torch.Tensor]:
    """Return one step's gradients but those of biases that the loss cannot see, which are rounding noise."""
    packed = PackedClassifier(load_classifier(folder).to(device).train(), seed=0)
    batch = some_groups(typed=typed)
    with torch.autocast(device, autocast, enabled=autocast is not None):
        logits = packed.logits(batch, step=0)
    group_loss(logits, batch).backward()
    named = {name: value.grad.float().cpu() for name, value in packed.model.named_parameters() if value.grad is not None}
    return {name: value for name, value in named.items() if not name.endswith("key.bias") and value.shape != (1,)}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    difference = sum((one[name] - other[name]).square().sum() for name in one)
    return float((difference / sum(value.square().sum() for value in other.values())).sqrt())


@pytest.mark.parametrize(
    ("precision", "bound"), [(None, 1e-3), (torch.float16, 0.03), (torch.bfloat16, 0.1)], ids=["fp32", "fp16", "bf16"]
)
@pytest.mark.parametrize("older", [False, True], ids=["this-gpu", "T4's path"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_has_the_gradient_of_the_cpu_in_fp32(name, older, precision, bound, tmp_path, monkeypatch) -> None:
    if precision == torch.bfloat16 and (older or torch.cuda.get_device_capability() < (8, 0)):
        pytest.skip("such a GPU has no bf16")
    if older:
        monkeypatch.setattr(attention, "capability_of", lambda device: T4)
    folder, typed = saved(name, tmp_path), name == "bert"
    exact = gradients(folder, "cpu", typed=typed)
    assert distance(gradients(folder, "cuda", precision, typed=typed), exact) < bound


def test_a_step_of_adapters_has_the_gradient_of_the_cpu_in_fp32() -> None:
    recipe = load_recipe({"recipe": "tiny-generative", "lora_dropout": "0"})

    def step(device: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        family = load_family(resolve_model(recipe.base_model), recipe, torch.device(device))
        groups = [family.encode(0, "서울의 인구는?", ["서울의 인구는 940만 명이다.", "부산은 항구 도시이다."], None)]
        family.loss(family.logits(groups, 0), groups).backward()
        return {name: value.grad.cpu() for name, value in family.model.named_parameters() if value.grad is not None}

    assert distance(step("cuda"), step("cpu")) < 1e-3


@pytest.mark.parametrize("older", [False, True], ids=["this-gpu", "T4's path"])
def test_a_backward_pass_gives_the_same_bits_twice(older, tmp_path, monkeypatch) -> None:
    if older:
        monkeypatch.setattr(attention, "capability_of", lambda device: T4)
    folder = saved("xlm-roberta", tmp_path)
    assert be_deterministic(lambda: gradients(folder, "cuda", torch.float16, typed=False)) is None
    one, other = (gradients(folder, "cuda", torch.float16, typed=False) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def job(base: Path, **changes: str) -> TrainingFolders:
    folders = TrainingFolders(base)
    folders.dataset.mkdir(parents=True)
    folders.config.mkdir(parents=True)
    records = [record.to_json() for record in read_record_file(paths.SAMPLE)]
    write_jsonl(folders.dataset / "train.jsonl", records[:160])
    write_jsonl(folders.dataset / "dev.jsonl", records[160:200])
    (folders.config / "hyperparameters.json").write_text(json.dumps(RECIPE | changes))
    return folders


def run(folders: TrainingFolders, **changes: str) -> dict[str, torch.Tensor]:
    torch.cuda.set_device(0)
    train(load_recipe(RECIPE | changes), folders, Worker(0, 1, 0, torch.device("cuda", 0)))
    return load_file(folders.model / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{}, {"recipe": "tiny-colbert", "in_batch_negatives": "true"}, {"recipe": "tiny-generative"}],
    ids=["mini", "in-batch", "generative"],
)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_run_and_a_resumed_one_end_with_the_same_weights(precision, changes, tmp_path, monkeypatch, capsys) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16")
    changes = changes | {"precision": precision}
    once = run(job(tmp_path / "once"), **changes)
    assert "deterministic" not in capsys.readouterr().out
    again = run(job(tmp_path / "again"), **changes)
    assert all(torch.equal(once[name], again[name]) for name in once)

    folders, save = job(tmp_path / "cut"), CheckpointStore.save

    def save_and_die(self, step, progress) -> None:
        save(self, step, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(folders, **changes)
    monkeypatch.setattr(CheckpointStore, "save", save)
    resumed = run(folders, **changes)
    assert "Resuming after step 2" in capsys.readouterr().out
    assert all(torch.equal(once[name], resumed[name]) for name in once)


@two_gpus
def test_two_gpus_train_the_model_that_one_does(tmp_path) -> None:
    one, two = job(tmp_path / "one", precision="fp32"), job(tmp_path / "two", precision="fp32")
    assert run_training(one, workers=1) == 0
    assert run_training(two, workers=2) == 0
    left, right = (load_file(folders.model / "model.safetensors") for folders in (one, two))
    # Dropout is drawn otherwise for each worker: what has to agree is the course, not the bits.
    assert distance(left, right) < 0.05


@two_gpus
def test_a_worker_that_is_lost_leaves_a_sentence_and_no_aborted_process() -> None:
    code = """
import os, signal, sys
from datetime import timedelta
from training_job.loop import worker

worker._PATIENCE = timedelta(seconds=20)
me = worker.join()
me.all_reduce(1.0)
if me.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
try:
    me.all_reduce(1.0)
except Exception as error:
    print(worker.reason(error), flush=True)
    os._exit(1)
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    told, _ = first.communicate(timeout=180)
    assert second.wait(10) == -signal.SIGKILL
    assert first.returncode == 1
    assert told.startswith("Another host of this job failed first")
