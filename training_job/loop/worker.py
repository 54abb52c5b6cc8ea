"""This process among the workers of a run: who it is, how they add up, and how one learns why another one failed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ko_reranker.container import SECONDARY_FAILURE, JobError, describe
from ko_reranker.gpus import check_gpu
from ko_reranker.instances import AMPERE
from ko_reranker.processor import multiplies_bf16

# The longest that workers wait for each other: to load a model (each host does), to evaluate on dev, to write a checkpoint of a
# large model. Who is later hangs, or is gone.
_PATIENCE = timedelta(minutes=10)
# How often a worker asks whether another one has failed, and how long it may take to find out by itself before it is ended.
ASK_SECONDS, GRACE_SECONDS = 2.0, 15.0
_FAILURE_KEY = "failure"


class Interrupted(Exception):
    """SIGTERM came (a spot instance goes, or somebody stopped the job): the checkpoint is written, nothing failed."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    def say(self, text: str) -> None:
        """Print a line, on rank 0."""
        if self.rank == 0:
            print(text, flush=True)

    def all_reduce(self, *values: float) -> list[float]:
        """Return the sums of some numbers over all workers."""
        if self.world_size == 1:
            return list(values)
        cells = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(cells)
        return cells.tolist()

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum of all workers' gradients into each parameter; one that a worker did not use counts as zero.

        Once a step and not during the backward pass, as `DistributedDataParallel` does: with accumulation there is little to
        overlap, a worker may have any number of micro-batches, and the gradient of the word embeddings, most of the bytes,
        is made row by row where DDP would not see it.
        """
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world_size > 1:
            for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in parameters]:
                work.wait()

    def all_gather_rows(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Return all workers' rows, (sum of counts, width), worker after worker.

        Args:
            rows: this worker's, (counts[rank], width).
            counts: how many each worker has, by rank; all of them know.
        """
        if self.world_size == 1:
            return rows
        most = max(counts)
        sent = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
        everyone = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(everyone, sent)
        return torch.cat([theirs[:count] for theirs, count in zip(everyone, counts, strict=True)])

    def all_reduce_rows(self, rows: torch.Tensor) -> None:
        """Put the sum of all workers' rows into each one's."""
        if self.world_size > 1:
            dist.all_reduce(rows)

    def all_have(self, mine: list[int]) -> set[int]:
        """Return what is in every worker's list."""
        if self.world_size == 1:
            return set(mine)
        everyone: list[list[int]] = [[]] * self.world_size
        dist.all_gather_object(everyone, mine)
        return set(everyone[0]).intersection(*everyone[1:])


def join(device: str = "auto", instance_type: str | None = None) -> Worker:
    """Find this process's place in the variables that torchrun sets, and meet the others.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``, which leaves a GPU alone.
        instance_type: of this host, where SageMaker says it.

    Raises:
        GpuUnusable: there is a GPU, and PyTorch cannot compute on it.
        JobError: this process has no GPU of its own.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cpu")
    if device != "cpu":
        check_gpu(instance_type, compute=True)
        if torch.cuda.is_available():
            place = torch.device("cuda", local_rank)
        elif device == "cuda":
            raise JobError("The device is to be cuda, but PyTorch sees no GPU here.")
    if place.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise JobError(f"Worker {local_rank} of this host has no GPU: there are {torch.cuda.device_count()}, one a worker.")
        torch.cuda.set_device(place)
        # cuBLAS adds up in one order only with a workspace of its own; it is read when cuBLAS is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # A collective that fails or takes too long raises in the process that waits for it. By default NCCL's watchdog ends
        # the process instead, before it could say why (ProcessGroupNCCL.hpp, ErrorHandlingMode).
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    if world_size > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Worker(rank, world_size, local_rank, place)


def be_deterministic(rehearsal: Callable[[], object]) -> str | None:
    """Make a GPU choose deterministic kernels, and return a sentence when an operation has none.

    With ``warn_only`` PyTorch leaves the backward passes of flash and of memory-efficient attention as they are, which add up
    in any order (ATen/native/transformers/cuda/attention_backward.cu: "defaults to a non-deterministic algorithm"). Without it,
    an operation that has no deterministic kernel raises. So a rehearsal shows whether there is one: only then it is a warning.

    Args:
        rehearsal: computes all that a step does, forward and backward.
    """
    # The same weights need no memory filled. The module has this as a property of itself.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        rehearsal()
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        torch.use_deterministic_algorithms(True, warn_only=True)
        why = " ".join(str(error).split()).partition(". ")[0]
        return f"Two runs may differ in rounding on this GPU, for an operation has no deterministic kernel: {why}."
    return None


def leave(worker: Worker) -> None:
    """Wait for the others and part."""
    if worker.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def reason(error: Exception) -> str:
    """Return the sentence of a failure: the error's own, or that of the host that failed first.

    On a cluster the store by which the workers found each other also carries that sentence from host to host.
    """
    connection_lost = isinstance(error, (dist.DistError, ConnectionError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
    )
    own = describe(error)
    if not dist.is_initialized():
        return own
    with contextlib.suppress(Exception):  # the store may be gone with its host: then there is nothing to learn or to tell
        notes = dist.distributed_c10d._get_default_store()
        if not connection_lost:
            notes.set(_FAILURE_KEY, own)
            return own
        notes.set_timeout(timedelta(seconds=2))
        return f"{SECONDARY_FAILURE}: {notes.get(_FAILURE_KEY).decode()}"
    return f"{SECONDARY_FAILURE} ({own})" if connection_lost else own


@contextlib.contextmanager
def watch_others(worker: Worker, give_up: Callable[[str], None]) -> Iterator[None]:
    """Learn while computing that another worker has failed: whoever waits for it in a collective would wait for minutes.

    Args:
        worker: this one.
        give_up: is told why, from a thread of its own, when this worker has not noticed by itself within some seconds; it has
            to end the process.
    """
    if worker.world_size == 1:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        notes = dist.distributed_c10d._get_default_store()
        with contextlib.suppress(Exception):  # the store may go with its host: then the collectives fail by themselves
            while not over.wait(ASK_SECONDS):
                if notes.check([_FAILURE_KEY]):
                    sentence = f"{SECONDARY_FAILURE}: {notes.get(_FAILURE_KEY).decode()}"
                    if not over.wait(GRACE_SECONDS):
                        give_up(sentence)
                    return

    thread = threading.Thread(target=watch, name="watch-others", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(ASK_SECONDS)


@dataclass
class Flag:
    """Whether something happened."""

    is_set: bool = False


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Flag]:
    """Turn SIGTERM into a flag that the loop checks after each step."""
    flag = Flag()

    def remember(*_: object) -> None:
        flag.is_set = True

    previous = signal.signal(signal.SIGTERM, remember)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


def precision_on(device: torch.device, wanted: str) -> tuple[str, str | None]:
    """Return the precision to compute in, and a sentence when it is not the one wanted.

    Raises:
        JobError: the device has none of it.
    """
    if wanted == "fp16" and device.type == "cpu":
        return "fp32", "precision fp16 needs a GPU: training in fp32."
    if wanted == "bf16" and device.type == "cpu" and not multiplies_bf16():
        return "fp32", "This CPU has no instructions for bf16 that are as fast as those for fp32: training in fp32."
    if wanted == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE:
        raise JobError(
            f"{torch.cuda.get_device_name(device)} has no bf16: set precision to fp16, or take a newer GPU (g5, p4)."
        )
    return wanted, None
