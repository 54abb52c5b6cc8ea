"""Where a ranker computes and in which arithmetic, and the engine that does it, of whichever family it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ko_reranker.engine import Engine, EngineObserver
from ko_reranker.engine.core import Forward
from ko_reranker.engine.dense import check_int8
from ko_reranker.engine.graphs import TOKENS_PER_SEQUENCE
from ko_reranker.gpus import GpuUnusable, check_gpu
from ko_reranker.instances import AMPERE, Dtype
from ko_reranker.processor import bound_caches, multiplies_bf16_in_tiles, paying_bf16, usable_cores
from ko_reranker.rankers.interface import RankerError
from ko_reranker.rankers.options import EngineOptions

_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
_BETTER_THAN_INT8 = "bf16 is about as fast on this processor (AMX) and ranks more like fp32: leave dtype at auto"
# More workers of one thread than this get into each other's way in the interpreter; then each has more threads.
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Placement:
    """Where a model computes and in which arithmetic.

    Attributes:
        device: of weights and items.
        dtype: of the weights; of int8's fp32, from which they are rounded.
        int8: whether the layers' products are of int8.
        batch_tokens: tokens of a micro-batch.
        options: as they were given.
        reason: why it is this arithmetic, a sentence for people to read.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool
    batch_tokens: int
    options: EngineOptions
    reason: str

    @property
    def precision(self) -> str:
        """The arithmetic, for people to read."""
        return "int8" if self.int8 else str(self.dtype).removeprefix("torch.")

    def put(self, model: nn.Module) -> None:
        """Put a model there, to compute and not to be trained."""
        model.eval().requires_grad_(False).to(self.device)

    def engine(self, forward: Forward, observer: EngineObserver | None) -> Engine:
        """Return an engine with as many workers as suit the device, or as are wanted."""
        workers, threads = _workers(self.device, self.options.workers)
        return Engine(
            forward,
            batch_tokens=self.batch_tokens,
            workers=workers,
            threads=threads,
            most_sequences=max(1, self.batch_tokens // TOKENS_PER_SEQUENCE) if self.device.type == "cuda" else 2**31,
            max_queue_tokens=self.options.max_queue_tokens,
            observer=observer,
        )


def placement_for(
    options: EngineOptions, batch_tokens: Mapping[str, int] = _BATCH_TOKENS, *, bf16_pays: bool = False
) -> Placement:
    """Return where and how a model is to compute.

    Args:
        options: what is wanted.
        batch_tokens: of a micro-batch by the device's type, where the options leave it open.
        bf16_pays: whether such a model was measured to gain from bf16 on a CPU with instructions for it.

    Raises:
        RankerError: the device cannot be had, or does not compute in the type.
    """
    bound_caches()
    device = _device(options)
    dtype, reason = _arithmetic(options.dtype, device, bf16_pays=bf16_pays)
    return Placement(
        device=device,
        dtype=dtype,
        int8=options.dtype == "int8",
        batch_tokens=options.batch_tokens or batch_tokens[device.type],
        options=options,
        reason=reason,
    )


def served_dtype(name: Dtype, device: torch.device, *, bf16_pays: bool = False) -> torch.dtype:
    """Return what a model's weights are on a device; `EngineOptions.dtype` says what ``auto`` is.

    Args:
        name: what is asked for.
        device: where the model computes.
        bf16_pays: as :func:`placement_for` explains it.
    """
    return _arithmetic(name, device, bf16_pays=bf16_pays)[0]


def _arithmetic(name: Dtype, device: torch.device, *, bf16_pays: bool) -> tuple[torch.dtype, str]:
    """Return what a model's weights are on a device, and why."""
    if name == "int8" and bf16_pays and multiplies_bf16_in_tiles():
        return _DTYPES[name], f"as asked, and {_BETTER_THAN_INT8}"
    if name != "auto":
        return _DTYPES[name], "as asked"
    if device.type != "cpu":
        # PyTorch emulates bf16 below Ampere.
        if torch.cuda.get_device_capability(device) >= AMPERE:
            return torch.bfloat16, "bf16, which this GPU has instructions for"
        return torch.float16, "fp16: this GPU has no instructions for bf16"
    if not bf16_pays:
        return torch.float32, "fp32: on a CPU, nothing else was measured to pay for models of this kind"
    if instructions := paying_bf16():
        return torch.bfloat16, f"bf16, which this processor multiplies by {instructions}"
    return torch.float32, "fp32: this processor has no instructions for bf16 that were measured to pay (AMX, AMD's AVX512-BF16)"


def _device(options: EngineOptions) -> torch.device:
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


def _workers(device: torch.device, workers: int | None) -> tuple[int, int]:
    """Return how many workers score, and how many threads each may use."""
    if device.type == "cuda":
        return workers or 1, 1
    cores = usable_cores()
    workers = workers or min(cores, _MOST_WORKERS)
    return workers, max(1, cores // workers)
