"""This process among the workers of a run: who it is, how they add up, and how one learns why another one failed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ko_reranker.container import SECONDARY_FAILURE, JobError, describe
from ko_reranker.processor import multiplies_bf16


class Interrupted(Exception):
    """SIGTERM came (a spot instance goes, or somebody stopped the job): the checkpoint is written, nothing failed."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

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

    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum of all workers' gradients into each parameter; one that a worker did not use counts as zero.

        Once a step and not during the backward pass, as `DistributedDataParallel` does: with accumulation there is little to
        overlap, a worker may have any number of micro-batches, and the gradient of the word embeddings, most of the bytes,
        is made row by row where DDP would not see it.
        """
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world > 1:
            for work in [dist.all_reduce(parameter.grad, async_op=True) for parameter in parameters]:
                work.wait()

    def common(self, mine: list[int]) -> set[int]:
        """Return what is in every worker's list."""
        if self.world == 1:
            return set(mine)
        everyone: list[list[int]] = [[]] * self.world
        dist.all_gather_object(everyone, mine)
        return set(everyone[0]).intersection(*everyone[1:])


def join() -> Worker:
    """Find this process's place in the variables that torchrun sets, and meet the others."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # The same run twice gives the same weights; what has no such kernel warns. Memory needs no filling for that.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    return Worker(rank, world, local_rank, device)


def leave(worker: Worker) -> None:
    """Wait for the others and part."""
    if worker.world > 1:
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
            notes.set("failure", own)
            return own
        notes.set_timeout(timedelta(seconds=2))
        return f"{SECONDARY_FAILURE}: {notes.get('failure').decode()}"
    return f"{SECONDARY_FAILURE} ({own})" if connection_lost else own


@dataclass
class Flag:
    """Whether something happened."""

    is_set: bool = False


@contextlib.contextmanager
def catch_sigterm() -> Iterator[Flag]:
    """Turn SIGTERM into a flag that the loop looks at after each step."""
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
        return "fp32", "This CPU has no bf16 instructions, and without them bf16 is slower than fp32: training in fp32."
    if wanted == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        raise JobError(
            f"{torch.cuda.get_device_name(device)} has no bf16: set precision to fp16, or take a newer GPU (g5, p4)."
        )
    return wanted, None
