"""Where a ranker computes and in which arithmetic, and the engine that does it, of whichever family it is."""

from __future__ import annotations

import torch

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.core import Forward
from ko_reranker.engine.dense import check_int8
from ko_reranker.engine.graphs import TOKENS_PER_SEQUENCE
from ko_reranker.gpus import GpuUnusable, check_gpu
from ko_reranker.instances import AMPERE, Dtype
from ko_reranker.processor import usable_cores
from ko_reranker.rankers.interface import RankerError
from ko_reranker.rankers.options import EngineOptions

_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
# More workers of one thread than this get into each other's way in the interpreter; then each has more threads.
_MOST_WORKERS = 8


def device_of(options: EngineOptions) -> torch.device:
    """Return the device that is meant.

    Raises:
        RankerError: it cannot be had, or does not compute in the type.
    """
    wanted, dtype = options.device, options.dtype
    if wanted == "auto" and dtype != "int8":  # who asks for int8 asks for a CPU
        try:
            check_gpu()
        except GpuUnusable as error:
            raise RankerError(str(error)) from None
    device = torch.device(("cuda" if torch.cuda.is_available() and dtype != "int8" else "cpu") if wanted == "auto" else wanted)
    if dtype == "int8" and device.type != "cpu":
        raise RankerError("dtype int8 is for CPUs: use bf16 or fp16 on a GPU.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RankerError("device is cuda, but PyTorch sees no GPU: use cpu, or install a CUDA build of PyTorch.")
    if dtype == "int8":
        try:
            check_int8()
        except (RuntimeError, AttributeError) as error:
            raise RankerError(f"dtype int8 does not work on this machine ({error}): use fp32.") from error
    return device


def served_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """Return what a model's weights are on a device: of ``auto``, fp32 on a CPU, and on a GPU bf16 where it has that."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    # PyTorch emulates bf16 below Ampere.
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= AMPERE else torch.float16


def precision_of(options: EngineOptions, device: torch.device) -> str:
    """Return the arithmetic that a model computes in, for people to read."""
    return "int8" if options.dtype == "int8" else str(served_dtype(options.dtype, device)).removeprefix("torch.")


def tokens_of_a_batch(device: torch.device, options: EngineOptions) -> int:
    """Return the tokens of a micro-batch on a device."""
    return options.batch_tokens or _BATCH_TOKENS[device.type]


def make_engine(forward: Forward, device: torch.device, options: EngineOptions, observer: EngineObserver | None) -> Engine:
    """Return an engine with as many workers as suit the device, or as are wanted."""
    workers, threads = _workers(device, options.workers)
    batch_tokens = tokens_of_a_batch(device, options)
    return Engine(
        forward,
        batch_tokens=batch_tokens,
        workers=workers,
        threads=threads,
        most_sequences=max(1, batch_tokens // TOKENS_PER_SEQUENCE) if device.type == "cuda" else 2**31,
        max_queue_tokens=options.max_queue_tokens,
        observer=observer,
    )


def _workers(device: torch.device, workers: int | None) -> tuple[int, int]:
    """Return how many workers score, and how many threads each may use."""
    if device.type == "cuda":
        return workers or 1, 1
    cores = usable_cores()
    workers = workers or min(cores, _MOST_WORKERS)
    return workers, max(1, cores // workers)
