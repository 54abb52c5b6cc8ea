"""From SageMaker's folders to torchrun: one call per host starts that host's workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from ko_reranker.container import (
    BASE_DIR_VARIABLE,
    SECONDARY_FAILURE,
    JobError,
    Resources,
    TrainingFolders,
    describe,
    fail,
    read_hyperparameters,
    read_resources,
)
from ko_reranker.gpus import check_gpu
from ko_reranker.processor import usable_cores
from ko_reranker.recipes.shipped import load_recipe

DEFAULT_PORT = 7777
WORKER = "training_job.train"
DEVICE_VARIABLE = "KO_RERANKER_DEVICE"
STOPPED = 143  # 128 + SIGTERM
# How often workers start again, from their newest checkpoint, after torchrun was killed here or on another host.
RESTARTS = 2
# Before that: the hosts that lost it find out first. And how long they then wait for each other.
PAUSE_SECONDS, _MEETING_SECONDS = 5.0, 120
# Tells the processes of a launch from all others, its orphans among them.
_LAUNCH_VARIABLE = "KO_RERANKER_LAUNCH"


def run_training(folders: TrainingFolders, workers: int | None = None, device: str | None = None) -> int:
    """Run this host's part of a training job and return its exit code; a failure is written to output/failure.

    Args:
        folders: the job's; its workers find them by ``SAGEMAKER_BASE_DIR``.
        workers: processes on this host; None takes one a GPU, or one.
        device: ``auto`` takes the GPUs and fails where they can't be used; ``cuda`` wants some; ``cpu`` leaves them alone. None
            takes what KO_RERANKER_DEVICE says, or auto.
    """
    device = device or os.environ.get(DEVICE_VARIABLE) or "auto"
    folders.failure.unlink(missing_ok=True)
    try:
        load_recipe(read_hyperparameters(folders.config))  # wrong settings fail here, in a second, on every host alike
        if not (folders.dataset / "train.jsonl").is_file():
            raise JobError(f"There is no train.jsonl in {folders.dataset}: name the channel of the records `dataset`.")
        resources = read_resources(folders.config)
        if device != "cpu":
            check_gpu(resources.instance_type)
        workers = workers or (1 if device == "cpu" else workers_per_host())
        environment = os.environ | {BASE_DIR_VARIABLE: str(folders.base), DEVICE_VARIABLE: device}
        environment |= worker_environment(resources, workers, os.environ)
        code, stopped = _run_to_the_end(folders, resources, workers, environment)
        if code != 0 and stopped:
            return STOPPED  # a spot interruption or StopTrainingJob: the workers wrote a checkpoint, nothing failed
        if code != 0 and not folders.failure.exists():
            raise JobError(_without_a_reason(code))
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


def torchrun_command(
    resources: Resources, workers: int, environment: Mapping[str, str], meeting_seconds: int | None = None
) -> list[str]:
    """Return the torchrun command of this host; its hosts wait so long for each other, or as long as torchrun does."""
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
        *((f"--rdzv_conf=timeout={meeting_seconds}",) if meeting_seconds else ()),
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


def _run_to_the_end(
    folders: TrainingFolders, resources: Resources, workers: int, environment: Mapping[str, str]
) -> tuple[int, bool]:
    """Run torchrun, again when one of the job's was killed; return its exit code and whether SIGTERM or SIGINT came.

    What was killed had no time to write a checkpoint or a reason. The newest checkpoint is as good as it was, and other hosts
    find their connections lost: they start again, too, and all meet as they did at first.
    """
    environment = {**environment, _LAUNCH_VARIABLE: uuid.uuid4().hex}
    with _handing_signals_on() as (processes, received):
        for restarts_left in range(RESTARTS, -1, -1):
            folders.failure.unlink(missing_ok=True)
            seconds = _MEETING_SECONDS if processes else None  # at first a host may be minutes behind
            command = torchrun_command(resources, workers, os.environ, seconds)
            processes.append(subprocess.Popen(command, env=environment))
            code = processes[-1].wait()
            _end_orphans(environment[_LAUNCH_VARIABLE])
            if code == 0 or received or not restarts_left or not _was_killed(code, folders):
                break
            who = "torchrun was killed" if code < 0 else "another host was lost"
            print(f"{who.capitalize()}: starting again from the newest checkpoint.", file=sys.stderr, flush=True)
            until = time.monotonic() + PAUSE_SECONDS
            while not received and time.monotonic() < until:
                time.sleep(0.05)
            if received:
                break
    return code, bool(received)


@contextlib.contextmanager
def _handing_signals_on() -> Iterator[tuple[list[subprocess.Popen[bytes]], list[int]]]:
    """Hand SIGTERM and SIGINT on to the last process of a list that the caller fills; the other list is what came."""
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        if processes:
            processes[-1].send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield processes, received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _was_killed(code: int, folders: TrainingFolders) -> bool:
    """Return whether a torchrun ended because it, or one on another host that could not say why, was killed."""
    if code < 0:
        return not folders.failure.exists()
    # With a reason of the other host it would go on with a colon.
    return folders.failure.exists() and folders.failure.read_text(encoding="utf-8").startswith(f"{SECONDARY_FAILURE} (")


def _without_a_reason(code: int) -> str:
    how = (
        f"torchrun was killed by signal {-code} ({signal.Signals(-code).name}), {RESTARTS + 1} times"
        if code < 0
        else "a worker of this host was killed, as the log says"
    )
    return (
        f"The training ended without a reason of its own: {how}. Most often the machine ran out of memory: lower "
        "micro_batch_tokens (the effective batch stays the same), group_size or max_length, or use a larger instance; "
        "continue_run goes on from the newest checkpoint."
    )


def _end_orphans(launch: str) -> None:
    """End the processes of a launch whose torchrun is gone: a killed one leaves its workers behind, at work in sessions of
    their own, and their checkpoints would get into the way of those of the next. Where there is no /proc there is no looking.
    """
    wanted = f"{_LAUNCH_VARIABLE}={launch}".encode()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it ended meanwhile, or is somebody else's
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        if not found:
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
