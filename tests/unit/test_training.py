"""What users rely on in training: the recipe's gradient on any number of workers, exact resumption, clear failures."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from training_jobs import ALONE, job_folders
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig
from typer.testing import CliRunner

from ko_reranker.commands import jobs
from ko_reranker.container import SECONDARY_FAILURE, JobError, ProcessingFolders, Resources, TrainingFolders
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.models import resolve_model
from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.recipes.shipped import load_recipe, recipes
from ko_reranker.retraining.training_request import METRIC_DEFINITIONS
from ko_reranker.samples import paths, tiny_model
from training_job import launch
from training_job.loop import groups
from training_job.loop.packed import load_trainable
from training_job.loop.worker import precision_on
from training_job.mine import MiningSettings, mine
from training_job.train import train

ROOT = Path(__file__).parents[2]
QUICK = {"recipe": "tiny", "epochs": "1", "batch_queries": "5", "checkpoint_every_steps": "2", "log_every_steps": "1"}
PROGRESS = re.compile(
    r"^step=\d+/\d+ epoch=\d+\.\d+ loss=\d+\.\d+ learning_rate=\d\.\de[+-]\d\d gradient_norm=\S+ queries_per_second=\d+\.\d "
    r"tokens_per_second=\d+ eta_seconds=\d+$"
)


def job(base: Path, records: list[TrainingRecord], hyperparameters: dict[str, str] = QUICK) -> TrainingFolders:
    return job_folders(base, hyperparameters, records)


@pytest.fixture(scope="module")
def records() -> list[TrainingRecord]:
    """Twenty-two records of the sample, with 3 negatives, 1 or none."""
    found = list(read_record_file(paths.SAMPLE))[:22]
    found[3] = found[3].with_negatives(found[3].negatives[:1])
    assert {len(record.negatives) for record in found} == {0, 1, 3}
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, records) -> TrainingFolders:
    folders = job(tmp_path_factory.mktemp("alone"), records)
    train(load_recipe(QUICK), folders, ALONE)
    return folders


def weights(folders: TrainingFolders) -> dict[str, torch.Tensor]:
    return load_file(folders.model / "model.safetensors")


def assert_same_weights(one: TrainingFolders, other: TrainingFolders) -> None:
    """Adding up in another order rounds differently: 1e-4 of the weights' norm is allowed."""
    mine, others = weights(one), weights(other)
    distance = sum((mine[name] - others[name]).square().sum() for name in mine).sqrt()
    assert distance < 1e-4 * sum(value.square().sum() for value in mine.values()).sqrt()


# Settings.


def test_every_shipped_recipe_is_valid_and_v1_is_the_published_one() -> None:
    shipped = {name: load_recipe({"recipe": name}) for name in recipes()}
    assert set(shipped) == {
        *("ko-colbert-v1", "ko-generative-v1", "ko-reranker-v1", "ko-reranker-v2"),
        *("mini", "tiny", "tiny-colbert", "tiny-generative"),
    }
    v1 = shipped["ko-reranker-v1"]
    assert (v1.base_model, v1.learning_rate, v1.precision) == ("BAAI/bge-reranker-large", 5e-6, "fp16")
    assert (v1.epochs, v1.batch_queries, v1.group_size, v1.max_length, v1.weight_decay) == (3, 32 * 4, 3, 512, 0.01)
    assert load_recipe({}).base_model == "BAAI/bge-reranker-v2-m3"


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"recipe": "huge"}, "no recipe 'huge'; there are ko-colbert-v1, ko-generative-v1"),
        ({"lr": "1e-4"}, "Unknown hyperparameter 'lr'; known are recipe, base_model, learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast'"),
        ({"learning_rate": "nan"}, "learning_rate"),
        ({"group_size": "1"}, "group_size = '1'"),
        ({"precision": "int8"}, "precision = 'int8'"),
    ],
)
def test_wrong_settings_are_named(hyperparameters, message) -> None:
    with pytest.raises(JobError, match=re.escape(message)):
        load_recipe(hyperparameters)


# The run.


def test_the_model_loads_with_transformers_and_as_a_ranker(trained) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.model)
    assert model.config.num_labels == 1
    assert load_ranker(trained.model).max_length == json.loads((trained.model / "reranker.json").read_text())["max_length"]
    card = json.loads((trained.model / "run_card.json").read_text())
    assert card["dataset"]["records"] == 22
    assert card["recipe"]["epochs"] == 1
    assert len(card["dataset"]["sha256"]) == 64


def test_training_moves_the_weights_and_is_reproducible(trained, tmp_path, records) -> None:
    again = job(tmp_path, records)
    train(load_recipe(QUICK), again, ALONE)
    first, second = weights(trained), weights(again)
    base = load_file(resolve_model("sample:tiny") / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.dense.weight"], base["classifier.dense.weight"])


def test_smaller_micro_batches_give_the_same_model(trained, tmp_path, records) -> None:
    split = job(tmp_path, records)
    train(load_recipe(QUICK | {"micro_batch_tokens": "300"}), split, ALONE)
    assert_same_weights(split, trained)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have training stop before a step (from 0), as Ctrl+C stops it."""
    whole_batch = groups.GroupSampler.batch

    def until(sampler, number, rank, world):
        if number == step:
            raise KeyboardInterrupt
        return whole_batch(sampler, number, rank, world)

    monkeypatch.setattr(groups.GroupSampler, "batch", until)


def test_a_killed_and_resumed_run_ends_with_the_same_weights(trained, tmp_path, records, monkeypatch, capsys) -> None:
    folders = job(tmp_path, records)
    stop_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(QUICK), folders, ALONE)
    monkeypatch.undo()
    (folders.checkpoints / "step-00000099.pt").write_bytes(b"cut off on its way")
    train(load_recipe(QUICK), folders, ALONE)
    output = capsys.readouterr().out
    assert "Resuming after step 2 of 5" in output
    assert "Passing over step-00000099.pt" in output
    assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(folders).items())


@pytest.fixture(scope="module")
def base_with_dropout(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tiny_model.build(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_killed_run_with_dropout_goes_on_as_if_nothing_had_been(tmp_path, records, base_with_dropout, monkeypatch) -> None:
    settings = QUICK | {"base_model": base_with_dropout, "epochs": "3", "dev_queries": "4", "early_stop_patience": "3"}
    whole, broken = (job(tmp_path / name, records[:16], settings) for name in ("whole", "broken"))
    for folders in (whole, broken):
        write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in records[16:]])
    train(load_recipe(settings), whole, ALONE)
    process = start_host(broken)
    for line in process.stdout:
        if line.startswith("step=3/"):
            break
    os.kill(worker_of(process), signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (broken.model / "model.safetensors").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(7, patch)
        train(load_recipe(settings), broken, ALONE)
    train(load_recipe(settings), broken, ALONE)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(broken).items())
    told = [
        [{key: value for key, value in row.items() if "second" not in key} for row in metrics(folders)]
        for folders in (whole, broken)
    ]
    assert told[1] == told[0], "the metrics' file has every step once"


def worker_of(process: subprocess.Popen) -> int:
    """Return the process id of the training worker under a launcher and its torchrun."""
    (torchrun,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    return int(Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()[0])


def metrics(folders: TrainingFolders) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folders.output_data / "metrics.jsonl").read_text().splitlines()]


def test_the_commit_that_a_hub_id_came_to_is_recorded(tmp_path, records, monkeypatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(resolve_model("sample:tiny"), tmp_path / "hub" / "snapshots" / commit)
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **more: asked.append((args, more)) or str(snapshot))
    settings = QUICK | {"base_model": "org/model@v1.0", "epochs": "0.2"}
    folders = job(tmp_path / "run", records, settings)
    train(load_recipe(settings), folders, ALONE)
    assert asked[0][0] == ("org/model",) and asked[0][1]["revision"] == "v1.0"
    written = [json.loads((folders.model / name).read_text()) for name in ("reranker.json", "run_card.json")]
    assert [values["base_commit"] for values in written] == [commit, commit]
    assert written[0]["base_model"] == "org/model@v1.0"


def test_a_checkpoint_that_does_not_fit_says_so_with_its_bytes(trained, tmp_path, records, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    folders = job(tmp_path, records)
    shutil.copytree(trained.checkpoints, folders.checkpoints)
    before = sorted(path.name for path in folders.checkpoints.iterdir())
    (folders.checkpoints / "draft.tmp").symlink_to("/dev/full")
    with pytest.raises(
        JobError, match=r"no room for the checkpoint step-\d+\.pt: .* free, and \d+\.\d MB are needed.*volume_gb"
    ):
        train(load_recipe(QUICK | {"checkpoint_every_steps": "1"}), folders, ALONE)
    assert sorted(path.name for path in folders.checkpoints.iterdir()) == before


def test_a_checkpoint_of_another_run_is_not_resumed_from(trained) -> None:
    with pytest.raises(JobError, match="learning_rate differ"):
        train(load_recipe(QUICK | {"learning_rate": "1e-3"}), trained, ALONE)


def test_what_does_not_change_the_result_may_change_when_a_run_is_resumed(trained, tmp_path, records, capsys) -> None:
    folders = job(tmp_path, records)
    (folders.base / "checkpoints").symlink_to(trained.checkpoints)
    changes = {"micro_batch_tokens": "64", "log_every_steps": "3", "gradient_checkpointing": "true"}
    train(load_recipe(QUICK | changes), folders, ALONE)
    assert "Resuming after step 4 of 5" in capsys.readouterr().out
    assert_same_weights(folders, trained)


def test_layers_computed_twice_give_the_same_model(trained, tmp_path, records) -> None:
    folders = job(tmp_path, records)
    train(load_recipe(QUICK | {"gradient_checkpointing": "true"}), folders, ALONE)
    assert_same_weights(folders, trained)


def test_metrics_are_written_as_lines_and_for_tensorboard(trained) -> None:
    rows = metrics(trained)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert {"loss", "learning_rate", "gradient_norm", "queries_per_second", "tokens_per_second"} < rows[-1].keys()
    (events,) = (trained.output_data / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_sagemaker_reads_every_metric_from_the_lines(tmp_path, records, capsys) -> None:
    folders = job(tmp_path, records[:16])
    write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in records[16:]])
    train(load_recipe(QUICK), folders, ALONE)
    output = capsys.readouterr().out
    for definition in METRIC_DEFINITIONS:
        found = re.findall(definition["Regex"], output)
        assert found, definition["Name"]
        assert all(math.isfinite(float(value)) for value in found)
    name = "dev:mrr"
    (last,) = [re.findall(one["Regex"], output)[-1] for one in METRIC_DEFINITIONS if one["Name"] == name]
    assert float(last) == pytest.approx(metrics(folders)[-1]["dev_mrr"], abs=1e-4)


def test_training_stops_when_dev_gets_no_better_and_saves_the_best(tmp_path, records, capsys) -> None:
    folders = job(tmp_path, records)
    write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in records[:8]])
    # A learning rate that ruins the model in an epoch: the base stays the best.
    settings = QUICK | {"epochs": "50", "learning_rate": "0.5", "early_stop_patience": "2"}
    train(load_recipe(settings), folders, ALONE)
    card = json.loads((folders.model / "run_card.json").read_text())
    best = card["best_on_dev"]
    assert card["saved_step"] == best["step"]
    assert best["dev_mrr"] == max(row["dev_mrr"] for row in card["dev"])
    assert len(card["dev"]) == 3 + best["step"] // 5
    assert f"No evaluation on dev after step {best['step']} was better" in capsys.readouterr().out
    assert [path.name for path in folders.checkpoints.glob("best-*.pt")] == [f"best-{best['step']:08d}.pt"]
    # What is saved is what was evaluated: a run that only evaluates finds the same.
    again = job(tmp_path / "again", records)
    write_jsonl(again.dataset / "dev.jsonl", [record.to_json() for record in records[:8]])
    train(load_recipe(QUICK | {"base_model": str(folders.model), "max_length": "128"}), again, ALONE)
    assert metrics(again)[0]["dev_mrr"] == best["dev_mrr"]
    assert metrics(again)[0]["dev_loss"] == pytest.approx(best["dev_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"early_stop_patience": "1"}, "early_stop_patience needs a dev.jsonl"),
        ({"distillation_weight": "0.5"}, "no record of train.jsonl has pos_scores and neg_scores: mine with a teacher"),
    ],
)
def test_what_the_data_lacks_is_said_before_training(tmp_path, records, hyperparameters, message) -> None:
    with pytest.raises(JobError, match=message):
        train(load_recipe(QUICK | hyperparameters), job(tmp_path, records), ALONE)


def test_a_student_comes_nearer_to_its_teacher(tmp_path, records) -> None:
    draw = np.random.default_rng(0)
    taught = [
        replace(
            record,
            positive_scores=tuple(draw.normal(size=len(record.positives)) * 3),
            negative_scores=tuple(draw.normal(size=len(record.negatives)) * 3),
        )
        for record in records
        if len(record.negatives) == 3
    ]

    def agreement(folder: Path | str) -> float:
        ranker, found = load_ranker(folder, EngineOptions(dtype="fp32")), []
        for record in taught:
            scores = ranker.score(record.query, [record.positives[0], *record.negatives])
            found.append(np.corrcoef(scores, [record.positive_scores[0], *record.negative_scores])[0, 1])
        return float(np.mean(found))

    folders = job(tmp_path, taught)
    settings = QUICK | {"epochs": "30", "distillation_weight": "1.0", "distillation_temperature": "2.0"}
    train(load_recipe(settings), folders, ALONE)
    assert agreement(folders.model) > agreement(resolve_model("sample:tiny")) + 0.3


def test_the_run_card_says_what_it_cost_and_what_it_was_made_of(tmp_path, records) -> None:
    folders = job(tmp_path, records)
    (folders.dataset / "manifest.json").write_text('{"records": 22}')
    resources = {"current_host": "a", "hosts": ["a"], "current_instance_type": "ml.m5.large"}
    (folders.config / "resourceconfig.json").write_text(json.dumps(resources))
    train(load_recipe(QUICK | {"instance_usd_per_hour": "3600"}), folders, ALONE)
    card = json.loads((folders.model / "run_card.json").read_text())
    assert card["cost_usd"] == pytest.approx(card["seconds"], abs=0.02)
    assert card["instance_type"] == "ml.m5.large"
    manifest = hashlib.sha256((folders.dataset / "manifest.json").read_bytes()).hexdigest()
    assert card["dataset"]["beside"] == {"manifest.json": manifest}
    assert card["tokens_per_second"] > card["sequences_per_second"] > card["queries_per_second"] > 0


def test_progress_lines_can_be_parsed(tmp_path, records, capsys) -> None:
    train(load_recipe(QUICK), job(tmp_path, records), ALONE)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step=")]
    assert len(lines) == 5
    assert all(PROGRESS.match(line) for line in lines)


def test_fp16_on_a_cpu_trains_in_fp32_and_says_so(tmp_path, records, capsys) -> None:
    train(load_recipe(QUICK | {"precision": "fp16"}), job(tmp_path, records[:5]), ALONE)
    assert "fp16 needs a GPU" in capsys.readouterr().out


@pytest.mark.parametrize(("capable", "used"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_trains_in_bf16_if_it_can(monkeypatch, capable, used) -> None:
    monkeypatch.setattr("training_job.loop.worker.multiplies_bf16", lambda: capable)
    assert precision_on(torch.device("cpu"), "bf16")[0] == used
    assert precision_on(torch.device("cpu"), "fp16")[0] == "fp32"


def test_bf16_trains_too_and_keeps_the_weights_in_fp32(tmp_path, records, monkeypatch) -> None:
    monkeypatch.setattr("training_job.loop.worker.multiplies_bf16", lambda: True)
    folders = job(tmp_path, records[:5])
    train(load_recipe(QUICK | {"precision": "bf16"}), folders, ALONE)
    assert {value.dtype for value in weights(folders).values()} == {torch.float32}
    assert json.loads((folders.model / "run_card.json").read_text())["precision_used"] == "bf16"


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, records) -> None:
    base = tmp_path / "broken"
    tiny_model.build(base)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    torch.nn.init.constant_(model.classifier.out_proj.weight, math.nan)
    model.save_pretrained(base)
    with pytest.raises(JobError, match="The loss became nan at step 1: lower learning_rate"):
        train(load_recipe(QUICK | {"base_model": str(base)}), job(tmp_path / "job", records), ALONE)


def test_records_without_any_negative_ask_for_mining(tmp_path, records) -> None:
    bare = [record.with_negatives(()) for record in records]
    with pytest.raises(JobError, match=r"No record of train\.jsonl has a negative: mine negatives"):
        train(load_recipe(QUICK), job(tmp_path, bare), ALONE)


# The launcher: real torchrun, real processes.


def test_hosts_meet_at_the_first_one_unless_told_otherwise() -> None:
    two = Resources("algo-2", ("algo-1", "algo-2"), "eth0")
    command = launch.torchrun_command(two, 4, {})
    assert {"--nnodes=2", "--node_rank=1", "--nproc_per_node=4", "--master_addr=algo-1", "--master_port=7777"} <= set(command)
    local = launch.torchrun_command(two, 1, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5555"})
    assert {"--master_addr=127.0.0.1", "--master_port=5555"} <= set(local)
    environment = launch.worker_environment(two, 1, {"OMP_NUM_THREADS": "3"})
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "OMP_NUM_THREADS" not in environment


def start_host(folders: TrainingFolders, **variables: str) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from ko_reranker.container import TrainingFolders, base_dir; "
        "from training_job.launch import run_training; sys.exit(run_training(TrainingFolders(base_dir())))"
    )
    environment = os.environ | {"SAGEMAKER_BASE_DIR": str(folders.base), "OMP_NUM_THREADS": "1"} | variables
    # A host's disk is its own: what one has made of a model, no other one has.
    environment |= {"HOME": str(folders.base / "home"), "TMPDIR": str(folders.base)}
    environment = {name: value for name, value in environment.items() if name not in ("KO_RERANKER_CACHE", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def hosts(base: Path, records, hyperparameters=QUICK) -> list[TrainingFolders]:
    """Lay out the folders of two hosts of one job."""
    names = ["algo-1", "algo-2"]
    folders = [job(base / name, records, hyperparameters) for name in names]
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    for name, folder in zip(names, folders, strict=True):
        resources = {"current_host": name, "hosts": names, "network_interface_name": loopback}
        (folder.config / "resourceconfig.json").write_text(json.dumps(resources))
    return folders


def start_hosts(folders: list[TrainingFolders]) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [start_host(folder, MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for folder in folders]


@pytest.fixture(scope="module")
def with_dropout(base_with_dropout) -> dict[str, str]:
    return QUICK | {"base_model": base_with_dropout}


@pytest.fixture(scope="module")
def trained_with_dropout(tmp_path_factory, records, with_dropout) -> TrainingFolders:
    folders = job(tmp_path_factory.mktemp("dropout"), records, with_dropout)
    train(load_recipe(with_dropout), folders, ALONE)
    return folders


@pytest.fixture(scope="module")
def trained_on_two_hosts(tmp_path_factory, records, with_dropout) -> TrainingFolders:
    """The first host's folders."""
    folders = hosts(tmp_path_factory.mktemp("hosts"), records, with_dropout)
    processes = start_hosts(folders)
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "step=5/5" in outputs[0]
    return folders[0]


def test_two_hosts_train_the_model_that_one_does_dropout_included(trained_on_two_hosts, trained_with_dropout) -> None:
    assert_same_weights(trained_on_two_hosts, trained_with_dropout)


def test_a_run_goes_on_with_another_number_of_workers(
    trained_on_two_hosts, trained_with_dropout, with_dropout, tmp_path, records, capsys
) -> None:
    alone = job(tmp_path, records, with_dropout)
    alone.checkpoints.mkdir()
    shutil.copy(trained_on_two_hosts.checkpoints / "step-00000002.pt", alone.checkpoints)
    train(load_recipe(with_dropout), alone, ALONE)
    assert "Resuming after step 2 of 5" in capsys.readouterr().out
    assert_same_weights(alone, trained_with_dropout)


def test_a_failure_of_the_second_host_reaches_the_first(tmp_path, records) -> None:
    folders = hosts(tmp_path, records)
    processes = start_hosts(folders)
    # Only the second host's records are broken, after its launcher has looked: its worker finds out.
    (folders[1].dataset / "train.jsonl").write_text('{"query": ""}\n')
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs
    own = "train.jsonl line 1: pos: needs at least one passage."
    assert folders[1].failure.read_text() == own
    assert folders[0].failure.read_text() == f"Another host of this job failed first: {own}"


def test_who_waits_for_a_worker_that_has_failed_learns_it_before_the_collective_s_time_is_over() -> None:
    code = """
import os, sys, time
from ko_reranker.container import JobError
from training_job.loop import worker

worker.ASK_SECONDS = worker.GRACE_SECONDS = 0.5
me = worker.join("cpu")
if me.rank == 0:
    print(worker.reason(JobError("The disk is full.")), flush=True)
    time.sleep(300)

def give_up(sentence):
    print(sentence, flush=True)
    os._exit(1)

with worker.watch_others(me, give_up):
    me.all_reduce(1.0)
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.Popen([sys.executable, "-c", code], env=common | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    )
    try:
        told, _ = second.communicate(timeout=400)
    finally:
        first.kill()
        first.communicate()
        second.kill()
    assert second.returncode == 1
    assert told.strip() == "Another host of this job failed first: The disk is full."


def test_a_stop_writes_a_checkpoint_and_is_no_failure(tmp_path, records) -> None:
    folders = job(tmp_path, records, QUICK | {"epochs": "1000", "checkpoint_every_steps": "100000"})
    process = start_host(folders)
    for line in process.stdout:
        if line.startswith("step=3/"):
            process.send_signal(signal.SIGTERM)
            break
    started = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == launch.STOPPED
    assert list(folders.checkpoints.glob("step-*.pt"))
    assert not folders.failure.exists()


def torchrun_of(process: subprocess.Popen) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def kill_torchrun_after(step: int, process: subprocess.Popen) -> int:
    """Kill a host's torchrun, and nothing else, once a step is done; return its worker, left behind at work."""
    for line in process.stdout:
        if line.startswith(f"step={step}/"):
            break
    worker = worker_of(process)
    os.kill(torchrun_of(process), signal.SIGKILL)
    return worker


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LONG = QUICK | {"epochs": "6", "checkpoint_every_steps": "2"}


@pytest.mark.slow
def test_a_killed_torchrun_starts_again_from_its_checkpoint(tmp_path, records) -> None:
    folders = job(tmp_path, records, LONG)
    process = start_host(folders)
    orphan = kill_torchrun_after(9, process)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Torchrun was killed: starting again from the newest checkpoint." in said
    resumed = int(re.search(r"Resuming after step (\d+) of 30", said)[1])
    assert resumed >= 8 and "step=30/30" in said
    assert not is_alive(orphan)
    assert not folders.failure.exists() and (folders.model / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_hosts_meet_again_when_the_torchrun_of_one_was_killed(tmp_path, records) -> None:
    folders = hosts(tmp_path, records, LONG)
    # As SageMaker does: what one host has written every host finds when it starts.
    folders[0].checkpoints.mkdir()
    folders[1].checkpoints.symlink_to(folders[0].checkpoints)
    processes = start_hosts(folders)
    kill_torchrun_after(9, processes[0])
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Another host was lost: starting again" in outputs[1]
    assert "step=30/30" in outputs[0]


AGENT = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / f"attempt-{len(list(folder.glob('attempt-*')))}").touch()
if (folder / "attempt-1").exists():
    sys.exit(0)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(folder / "worker").write_text(str(worker.pid))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_torchrun_left_behind_is_ended_before_the_next_begins(tmp_path, records, monkeypatch) -> None:
    folders = job(tmp_path / "job", records)
    monkeypatch.setattr(launch, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(launch, "torchrun_command", lambda *_: [sys.executable, "-c", AGENT, str(tmp_path)])
    assert launch.run_training(folders) == 0
    assert len(list(tmp_path.glob("attempt-*"))) == 2
    assert not is_alive(int((tmp_path / "worker").read_text()))
    assert not folders.failure.exists()


@pytest.mark.parametrize(("sentence", "attempts"), [(" (gloo: Connection closed)", 3), (": lower learning_rate.", 1)])
def test_a_host_starts_again_when_another_was_lost_and_not_when_it_failed(
    tmp_path, records, monkeypatch, sentence, attempts
) -> None:
    folders = job(tmp_path / "job", records)
    monkeypatch.setattr(launch, "PAUSE_SECONDS", 0.0)
    code = (
        "import sys, pathlib; folder = pathlib.Path(sys.argv[1]); output = folder / 'job' / 'output'; "
        "output.mkdir(exist_ok=True); "
        "(folder / f'attempt-{len(list(folder.glob(chr(42))))}').touch(); "
        f"(output / 'failure').write_text({(SECONDARY_FAILURE + sentence)!r}); sys.exit(1)"
    )
    monkeypatch.setattr(launch, "torchrun_command", lambda *_: [sys.executable, "-c", code, str(tmp_path)])
    assert launch.run_training(folders) == 1
    assert len(list(tmp_path.glob("attempt-*"))) == attempts
    assert folders.failure.read_text() == SECONDARY_FAILURE + sentence


def test_a_torchrun_that_is_killed_again_and_again_says_what_happened(tmp_path, records, monkeypatch, capfd) -> None:
    folders = job(tmp_path, records)
    monkeypatch.setattr(launch, "PAUSE_SECONDS", 0.0)
    die = [sys.executable, "-c", "import os; print('at work', flush=True); os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(launch, "torchrun_command", lambda *_: die)
    assert launch.run_training(folders) == 1
    reason = folders.failure.read_text()
    assert "torchrun was killed by signal 9 (SIGKILL), 3 times" in reason
    assert "ran out of memory: lower micro_batch_tokens" in reason and "exit code -9" not in reason
    assert capfd.readouterr().out.count("at work") == 3


def test_a_torchrun_that_ends_by_itself_is_not_started_again(tmp_path, records, monkeypatch, capfd) -> None:
    folders = job(tmp_path, records)
    monkeypatch.setattr(launch, "torchrun_command", lambda *_: [sys.executable, "-c", "print('at work'); raise SystemExit(1)"])
    assert launch.run_training(folders) == 1
    assert "a worker of this host was killed, as the log says" in folders.failure.read_text()
    assert capfd.readouterr().out.count("at work") == 1


def test_wrong_settings_end_in_the_failure_file(tmp_path, records, capsys) -> None:
    folders = job(tmp_path, records, {"recipe": "tiny", "lr": "1"})
    assert launch.run_training(folders) == 1
    assert folders.failure.read_text().startswith("Unknown hyperparameter 'lr'")


# Mining, and the commands.


@pytest.fixture(scope="module")
def program() -> typer.Typer:
    app = typer.Typer()
    for command in (jobs.train, jobs.mine):
        app.command()(command)
    return app


def test_the_train_command_trains_under_its_base_folder(program, tmp_path, records, monkeypatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    folders = job(tmp_path, records[:5])
    result = CliRunner().invoke(program, ["train"])
    assert result.exit_code == 0, result.output
    assert (folders.model / "model.safetensors").is_file()


def test_a_processing_job_that_fails_leaves_its_sentence_and_exit_code_1(program, tmp_path) -> None:
    result = CliRunner().invoke(program, ["mine", "--base-dir", str(tmp_path)])
    assert result.exit_code == 1
    sentence = ProcessingFolders(tmp_path).failure.read_text()
    assert sentence.startswith("There is no train.jsonl in")
    assert sentence in result.output


def test_every_option_says_why_one_would_change_it(program) -> None:
    commands = typer.main.get_command(program).commands.values()
    options = [option for command in commands for option in command.params if option.name != "help"]
    assert len(options) > 8
    assert all(len(option.help) > 40 for option in options)


def test_mining_tops_up_negatives_of_each_split_from_its_own_passages(tmp_path, records) -> None:
    folders = ProcessingFolders(tmp_path)
    folders.dataset.mkdir(parents=True)
    splits = {"train": records[:14], "dev": records[14:]}
    for name, part in splits.items():
        write_jsonl(folders.dataset / f"{name}.jsonl", [record.to_json() for record in part])
    (folders.dataset / "manifest.json").write_text('{"records": 22}')
    report = mine(folders, MiningSettings(negatives=5))
    assert (folders.output / "manifest.json").read_text() == '{"records": 22}', "the run card names it by its hash"
    for name, part in splits.items():
        mined = list(read_record_file(folders.output / f"{name}.jsonl"))
        own = {passage for record in part for passage in (*record.positives, *record.negatives)}
        assert [record.query for record in mined] == [record.query for record in part]
        for before, after in zip(part, mined, strict=True):
            assert after.negatives[: len(before.negatives)] == before.negatives
            assert len(set(after.negatives)) == len(after.negatives) == 5
            assert set(after.negatives) <= own - set(after.positives)
        assert report[name]["records_without_negatives_before"] == sum(not record.negatives for record in part)
    assert json.loads((folders.output / "mining.json").read_text()) == report


# Models to train from that are not what they seem.


def base_of(tmp_path: Path, change=lambda folder: None) -> str:
    folder = shutil.copytree(resolve_model("sample:tiny"), tmp_path / "base")
    change(folder)
    return str(folder)


def three_labels(folder: Path) -> None:
    config = tiny_model.build_model(len(tiny_model.load_tokenizer()), 0).config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def pointers(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")


def fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (three_labels, "3 labels (LABEL_0, LABEL_1, LABEL_2): a reranker has one"),
        (pointers, "Git LFS pointers instead of model.safetensors"),
        (fewer_layers, "no place for"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_a_base_that_is_none_is_refused_by_what_is_wrong_with_it(tmp_path, records, change, said) -> None:
    base = base_of(tmp_path, change)
    with pytest.raises(JobError) as caught:
        train(load_recipe(QUICK | {"base_model": base}), job(tmp_path / "job", records), ALONE)
    assert str(caught.value).startswith(f"base_model: {base} ") and said in str(caught.value)
    assert "ignore_mismatched_sizes" not in str(caught.value)


def klue(folder: Path) -> tuple[RobertaConfig, PreTrainedTokenizerFast]:
    """Save a transformer as KLUE published its RoBERTa: no head, the tokenizer of a BERT, one token type."""
    pieces = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *map(chr, range(ord("가"), ord("힣"), 7)), *"abcdefghijklmnop"]
    backend = Tokenizer(WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names, model_input_names=inputs)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=len(pieces), type_vocab_size=1, max_position_embeddings=130, pad_token_id=1, **shape)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return config, tokenizer


def test_klues_roberta_is_trained_and_then_scores_as_it_was_trained(tmp_path, records) -> None:
    _, tokenizer = klue(tmp_path / "klue")
    folders = job(tmp_path / "job", records)
    train(load_recipe(QUICK | {"base_model": str(tmp_path / "klue")}), folders, ALONE)
    model = AutoModelForSequenceClassification.from_pretrained(folders.model).eval()
    pairs = [(record.query[:20], passage[:60]) for record in records[:4] for passage in record.positives[:1]]
    expected = []
    for query, passage in pairs:
        inputs = tokenizer([query], [passage], return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            expected.append(model(**inputs).logits.item())
    np.testing.assert_allclose(load_ranker(folders.model, EngineOptions(dtype="fp32")).score_pairs(pairs), expected, atol=1e-4)


def test_a_head_that_a_base_lacks_starts_from_the_seed(tmp_path) -> None:
    klue(tmp_path)

    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_trainable(tmp_path, "klue").model.classifier.out_proj.weight.detach()

    torch.testing.assert_close(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    with pytest.raises(RankerError, match="no head that scores"):
        load_ranker(tmp_path)


def test_a_teacher_that_cannot_score_is_refused_by_name(tmp_path, records) -> None:
    folders = ProcessingFolders(tmp_path)
    folders.dataset.mkdir(parents=True)
    write_jsonl(folders.dataset / "train.jsonl", [record.to_json() for record in records])
    klue(tmp_path / "klue")
    with pytest.raises(JobError, match=r"The teacher: .*klue has no head that scores"):
        mine(folders, MiningSettings(teacher=str(tmp_path / "klue")))


# What a run survives, and what it says.


def early_stopping(base: Path, records, **settings: str) -> tuple[TrainingFolders, dict[str, str]]:
    """A run whose base stays the best: it learns nothing."""
    chosen = QUICK | {
        "epochs": "3",
        "learning_rate": "1e-12",
        "early_stop_patience": "9",
        "checkpoint_every_steps": "1",
        **settings,
    }
    folders = job(base, records[:12], chosen)
    write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in records[:4]])
    return folders, chosen


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("stopped_at", "lost"), [(2, "cut off"), (7, "missing")])
def test_best_weights_that_are_cut_off_do_not_make_a_resumed_run_fail(
    tmp_path, records, monkeypatch, capsys, stopped_at, lost
) -> None:
    folders, settings = early_stopping(tmp_path, records)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(stopped_at, patch)
        train(load_recipe(settings), folders, ALONE)
    (best,) = folders.checkpoints.glob("best-*.pt")
    cut_off(best) if lost == "cut off" else best.unlink()
    for _ in range(2):  # and every attempt after it
        train(load_recipe(settings), folders, ALONE)
        card = json.loads((folders.model / "run_card.json").read_text())
        assert card["best_on_dev"]["step"] >= stopped_at or card["saved_step"] == card["best_on_dev"]["step"]
        assert load_ranker(folders.model).score("질문", ["하나", "둘"]).shape == (2,)
    said = capsys.readouterr().out
    assert "cannot be read: looking for others from here" in said


def test_best_weights_that_are_cut_off_come_from_their_steps_checkpoint(tmp_path, records, monkeypatch, capsys) -> None:
    runs = []
    for name in ("whole", "mended"):
        folders, settings = early_stopping(tmp_path / name, records, learning_rate="1e-3", checkpoint_every_steps="50")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(7, patch)
            train(load_recipe(settings), folders, ALONE)
        (best,) = folders.checkpoints.glob("best-*.pt")
        assert (folders.checkpoints / best.name.replace("best", "step")).is_file()
        if name == "mended":
            cut_off(best)
        train(load_recipe(settings), folders, ALONE)
        runs.append(folders)
    assert_same_weights(*runs)
    assert "looking for others" not in capsys.readouterr().out


def test_unreadable_checkpoints_are_none_of_those_that_are_kept(tmp_path, records, monkeypatch, capsys) -> None:
    settings = QUICK | {"epochs": "2", "checkpoint_every_steps": "1"}
    folders = job(tmp_path, records, settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(4, patch)
        train(load_recipe(settings), folders, ALONE)
    names = sorted(path.name for path in folders.checkpoints.glob("step-*.pt"))
    cut_off(folders.checkpoints / names[-1])
    for further in ("step-00000090.pt", "step-00000091.pt"):  # cut off on their way, with the names of steps to come
        (folders.checkpoints / further).write_bytes(b"PK")
    torch.save({"some": "thing"}, folders.checkpoints / "step-00000092.pt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(6, patch)
        train(load_recipe(settings), folders, ALONE)
    kept = sorted(folders.checkpoints.glob("step-*.pt"))
    assert len(kept) == 2
    for path in kept:
        assert torch.load(path, weights_only=True)["step"] <= 6
    train(load_recipe(settings), folders, ALONE)
    assert "Resuming after step 6" in capsys.readouterr().out or kept


def test_a_tuning_jobs_hyperparameters_are_no_settings(tmp_path, records, capsys) -> None:
    added = {
        "_tuning_objective_metric": "dev:mrr",
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": "s3://bucket/source.tar.gz",
        "sagemaker_container_log_level": "20",
        "sagemaker_region": "ap-northeast-2",
    }
    assert load_recipe(QUICK | added) == load_recipe(QUICK)
    assert load_recipe({"recipe": '"tiny"', "precision": '"bf16"', "learning_rate": '"0.001"'}).precision == "bf16"
    with pytest.raises(JobError, match="Unknown hyperparameter '_tuning'"):
        load_recipe({"_tuning": "1"})
    folders, settings = early_stopping(tmp_path, records, learning_rate="0.5")  # which ruins the model: the base is saved
    train(load_recipe(settings | added), folders, ALONE)
    said = capsys.readouterr().out
    (regex,) = [item["Regex"] for item in METRIC_DEFINITIONS if item["Name"] == "dev:mrr"]
    card = json.loads((folders.model / "run_card.json").read_text())
    best = next(row["dev_mrr"] for row in card["dev"] if row["step"] == card["saved_step"])
    assert float(re.findall(regex, said)[-1]) == pytest.approx(best, abs=1e-4)
    documented = (ROOT / "docs/training.md").read_text()
    assert json.dumps(regex) in documented


def test_a_run_whose_scores_have_all_become_equal_fails(tmp_path, records) -> None:
    def collapsed(folder: Path) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        torch.nn.init.zeros_(model.classifier.out_proj.weight)
        torch.nn.init.zeros_(model.classifier.dense.weight)
        model.save_pretrained(folder)

    base = base_of(tmp_path, collapsed)
    folders = job(tmp_path / "job", records)
    with pytest.raises(JobError, match="all passages of a query score the same"):
        train(load_recipe(QUICK | {"base_model": base, "max_length": "128", "learning_rate": "1e-12"}), folders, ALONE)
    assert not (folders.model / "model.safetensors").exists()


def test_a_query_that_leaves_no_room_is_cut_and_said(tmp_path, records, capsys) -> None:
    long = [replace(record, query=record.query * 200) for record in records[:5]]
    folders = job(tmp_path, [*long, *records[5:]])
    train(load_recipe(QUICK), folders, ALONE)
    assert "Queries of more than 64 tokens are cut" in capsys.readouterr().out
    assert json.loads((folders.model / "run_card.json").read_text())["cut_queries"] == 5


def test_a_query_that_has_room_is_not_said_to_be_cut(trained) -> None:
    assert json.loads((trained.model / "run_card.json").read_text())["cut_queries"] == 0
