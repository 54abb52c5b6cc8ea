"""From SageMaker's folders to torchrun: one call per host starts that host's workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from ko_reranker.container import (
    BASE_DIR_VARIABLE,
    JobError,
    Resources,
    TrainingFolders,
    describe,
    fail,
    read_hyperparameters,
    read_resources,
)
from ko_reranker.processor import usable_cores
from training_job.settings import load_recipe

DEFAULT_PORT = 7777
WORKER = "training_job.train"
STOPPED = 143  # 128 + SIGTERM


def run_training(folders: TrainingFolders, workers: int | None = None) -> int:
    """Run this host's part of a training job and return its exit code; a failure is written to output/failure.

    Args:
        folders: the job's; its workers find them by ``SAGEMAKER_BASE_DIR``.
        workers: processes on this host; None takes one a GPU, or one.
    """
    folders.failure.unlink(missing_ok=True)
    try:
        load_recipe(read_hyperparameters(folders.config))  # wrong settings fail here, in a second, on every host alike
        if not (folders.dataset / "train.jsonl").is_file():
            raise JobError(f"There is no train.jsonl in {folders.dataset}: name the channel of the records `dataset`.")
        resources = read_resources(folders.config)
        workers = workers or workers_per_host()
        environment = os.environ | {BASE_DIR_VARIABLE: str(folders.base)} | worker_environment(resources, workers, os.environ)
        code, stopped = _run(torchrun_command(resources, workers, os.environ), environment)
        if code != 0 and stopped:
            return STOPPED  # a spot interruption or StopTrainingJob: the workers wrote a checkpoint, nothing failed
        if code != 0 and not folders.failure.exists():
            raise JobError(f"The training workers of this host ended with exit code {code} without a reason: see the log.")
    except Exception as error:
        fail(describe(error), folders.failure)
        print(describe(error), file=sys.stderr, flush=True)
        return 1
    if code != 0:  # torchrun ends its log with a trace of itself: the reason goes last, where people look
        print(folders.failure.read_text(encoding="utf-8"), file=sys.stderr, flush=True)
        return 1
    return 0


def workers_per_host() -> int:
    """Return how many workers a host runs: one per GPU, or one."""
    if shutil.which("nvidia-smi") is None:
        return 1  # known without the seconds that importing torch takes
    import torch

    return torch.cuda.device_count() or 1


def torchrun_command(resources: Resources, workers: int, environment: Mapping[str, str]) -> list[str]:
    """Return the torchrun command of this host."""
    alone = len(resources.hosts) == 1
    address = environment.get("MASTER_ADDR") or ("127.0.0.1" if alone else resources.hosts[0])
    port = environment.get("MASTER_PORT") or (str(_free_port()) if alone else str(DEFAULT_PORT))
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={len(resources.hosts)}",
        f"--node_rank={resources.rank}",
        f"--nproc_per_node={workers}",
        f"--master_addr={address}",
        f"--master_port={port}",
        *("-m", WORKER),
    ]


def worker_environment(resources: Resources, workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the workers need and nobody set yet."""
    # cuBLAS adds up in one order only with a workspace of its own. And glibc keeps what a step frees for the next one, which
    # takes as much: given back and asked for again it comes zeroed, page by page, 3 % of a step on a CPU.
    wanted = {
        **{"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(4 * 2**30)),
    }
    if resources.network_interface:
        wanted |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), resources.network_interface)
    # Hosts that meet on the loopback interface are one machine, whose cores they share.
    same_machine = environment.get("MASTER_ADDR", "").startswith("127.")
    sharing = workers * (len(resources.hosts) if same_machine else 1)
    wanted["OMP_NUM_THREADS"] = str(max(1, usable_cores() // sharing))
    return {key: value for key, value in wanted.items() if key not in environment}


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, bool]:
    """Run a command to its end, handing SIGTERM and SIGINT on to it; return its exit code and whether one came."""
    process = subprocess.Popen(command, env=environment)
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait(), bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
