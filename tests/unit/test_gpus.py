"""GPUs: what an instance type computes in, and that nobody computes on a CPU beside a GPU without saying so."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from ko_reranker.commands import evaluate, jobs, serve
from ko_reranker.container import TrainingFolders
from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.gpus import GpuUnusable, check_gpu
from ko_reranker.instances import gpu_of, refusal
from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from training_job.launch import run_training
from training_job.loop import worker

without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU here")
RECORD = {"query": "서울의 인구는?", "pos": ["서울의 인구는 약 940만 명이다."], "neg": ["부산은 항구 도시이다."]}


@pytest.fixture
def listed(tmp_path, monkeypatch) -> None:
    """A machine whose driver lists a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: NVIDIA A10G (UUID: GPU-7f)"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def training_folders(base: Path, instance_type: str | None) -> TrainingFolders:
    folders = TrainingFolders(base)
    folders.dataset.mkdir(parents=True)
    folders.config.mkdir(parents=True)
    write_jsonl(folders.dataset / "train.jsonl", [RECORD] * 4)
    (folders.config / "hyperparameters.json").write_text(
        json.dumps({"recipe": "tiny", "epochs": "1", "base_model": "sample:tiny"})
    )
    if instance_type:
        resources = {"current_host": "algo-1", "hosts": ["algo-1"], "current_instance_type": instance_type}
        (folders.config / "resourceconfig.json").write_text(json.dumps(resources))
    return folders


def processing_folder(base: Path, instance_type: str | None) -> Path:
    dataset = base / "processing" / "input" / "dataset"
    dataset.mkdir(parents=True)
    for split in ("train", "dev"):
        places = ["서울", "부산", "대구", "광주"]
        records = [{"query": f"{place}의 인구는?", "pos": [f"{place}의 인구는 많다."], "neg": []} for place in places]
        write_jsonl(dataset / f"{split}.jsonl", records)
    if instance_type:
        (base / "config").mkdir()
        request = {"ProcessingResources": {"ClusterConfig": {"InstanceType": instance_type, "InstanceCount": 1}}}
        (base / "config" / "processingjobconfig.json").write_text(json.dumps(request))
    return base


# What an instance type computes in.


@pytest.mark.parametrize(
    ("instance_type", "name", "capability"),
    [
        ("ml.g4dn.xlarge", "T4", (7, 5)),
        ("ml.g5.12xlarge", "A10G", (8, 6)),
        ("ml.g6.xlarge", "L4", (8, 9)),
        ("ml.g6e.2xlarge", "L40S", (8, 9)),
        ("ml.p3.2xlarge", "V100", (7, 0)),
        ("ml.p4d.24xlarge", "A100", (8, 0)),
        ("ml.p5.48xlarge", "H100", (9, 0)),
        ("ml.p6-b200.48xlarge", "B200", (10, 0)),
        ("ml.p9.xlarge", "GPU of p9", None),
    ],
)
def test_an_instance_type_tells_its_gpu(instance_type, name, capability) -> None:
    assert (gpu_of(instance_type).name, gpu_of(instance_type).capability) == (name, capability)


@pytest.mark.parametrize("instance_type", ["ml.m5.large", "ml.c7i.xlarge", "ml.r5.large", "ml.t3.medium", "ml.inf2.xlarge"])
def test_an_instance_type_without_a_gpu_has_none(instance_type) -> None:
    assert gpu_of(instance_type) is None


@pytest.mark.parametrize(
    ("instance_type", "precision", "said"),
    [
        ("ml.g4dn.xlarge", "bf16", "T4, which has no bf16"),
        ("ml.p3.2xlarge", "fp16", "V100, which PyTorch"),
        ("ml.p2.xlarge", "auto", "K80, which PyTorch"),
        ("ml.g5.xlarge", "int8", "int8 is for CPUs"),
        ("ml.g4dn.xlarge", "fp16", None),
        ("ml.g4dn.xlarge", "auto", None),
        ("ml.g4dn.xlarge", "fp32", None),
        ("ml.g6.xlarge", "bf16", None),
        ("ml.m5.large", "bf16", None),
        ("ml.m5.large", "int8", None),
        ("ml.p9.xlarge", "bf16", None),
    ],
)
def test_a_precision_that_an_instance_cannot_compute_in_is_refused(instance_type, precision, said) -> None:
    found = refusal(instance_type, precision)
    assert found is None if said is None else instance_type in found and said in found


# A GPU that cannot be used.


@without_a_gpu
@pytest.mark.parametrize("instance_type", ["ml.g5.xlarge", "ml.p4d.24xlarge", "ml.g9.xlarge"])
def test_a_gpu_instance_on_which_pytorch_sees_no_gpu_is_an_error(instance_type, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(GpuUnusable, match=rf"{instance_type} has a GPU, but PyTorch .* cannot use it"):
        check_gpu(instance_type)
    check_gpu("ml.m5.large")
    check_gpu(None)


@without_a_gpu
def test_a_gpu_that_the_driver_lists_and_pytorch_does_not_see_is_an_error(listed, monkeypatch) -> None:
    with pytest.raises(GpuUnusable, match=r"nvidia-smi lists a GPU here \(GPU 0: NVIDIA A10G\)") as caught:
        check_gpu()
    assert "--device cpu" in str(caught.value)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        check_gpu()


def test_the_drivers_own_reason_is_told(listed, monkeypatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver.")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        GpuUnusable, match=r"cannot use it: The NVIDIA driver on your system is too old \(found version 12020\)"
    ):
        check_gpu()


@without_a_gpu
def test_a_model_is_not_loaded_onto_the_cpu_beside_a_gpu_unless_that_is_asked_for(listed) -> None:
    with pytest.raises(RankerError, match="nvidia-smi lists a GPU"):
        load_ranker("sample:tiny")
    for chosen in ({"device": "cpu"}, {"dtype": "int8"}):
        load_ranker("sample:tiny", EngineOptions(**chosen)).close()


@without_a_gpu
def test_training_ends_at_once_with_the_sentence(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folders = training_folders(tmp_path / "ml", "ml.g5.12xlarge")
    told = tmp_path / "told"
    code = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(os.environ['KO_RERANKER_DEVICE'])"
    monkeypatch.setattr("training_job.launch.torchrun_command", lambda *_: [sys.executable, "-c", code])
    assert run_training(folders) == 1
    assert not told.exists()
    assert "The instance type ml.g5.12xlarge has a GPU, but PyTorch" in folders.failure.read_text()
    assert run_training(folders, device="cpu") == 0
    assert told.read_text() == "cpu"


@without_a_gpu
def test_a_worker_does_not_fall_back_to_the_cpu_either(listed) -> None:
    with pytest.raises(GpuUnusable):
        worker.join()
    assert worker.join("cpu").device.type == "cpu"


@without_a_gpu
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (jobs.mine, ["--negatives", "1"]),
        (jobs.mine, ["--negatives", "1", "--teacher", "sample:tiny"]),
        (evaluate.evaluate, ["--candidate", "sample:tiny", "--base", "sample:tiny", "--candidates", "2"]),
    ],
    ids=["mine", "mine-with-a-teacher", "evaluate"],
)
def test_processing_jobs_end_at_once_with_the_sentence(command, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    base = processing_folder(tmp_path / "ml", "ml.g5.xlarge")
    app = typer.Typer()
    app.command()(command)
    arguments = [*arguments, "--base-dir", str(base)]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 1
    assert "The instance type ml.g5.xlarge has a GPU, but PyTorch" in (base / "output" / "message").read_text()
    assert not (base / "processing" / "output").exists()
    meant = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert meant.exit_code == 0, meant.output


@without_a_gpu
def test_the_server_ends_at_once_with_the_sentence(listed) -> None:
    app = typer.Typer()
    app.command()(serve.serve)
    ended = CliRunner().invoke(app, ["--model", "sample:tiny", "--host", "127.0.0.1", "--port", "18099"])
    assert ended.exit_code == 1
    assert "nvidia-smi lists a GPU" in ended.output


def test_mining_without_a_teacher_needs_no_gpu_on_a_machine_of_ones_own(listed, tmp_path) -> None:
    base = processing_folder(tmp_path / "ml", None)
    app = typer.Typer()
    app.command()(jobs.mine)
    assert CliRunner().invoke(app, ["--negatives", "1", "--base-dir", str(base)]).exit_code == 0
