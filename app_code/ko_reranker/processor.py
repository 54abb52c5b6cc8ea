"""What this process has to compute with."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# oneDNN keeps the code of a product for each number of rows that it has met, and PyTorch's own cache above it some more: 1,024
# of each by default, for each linear layer's shape, which is more than a gigabyte. In fp32 texts have ever new lengths, so that
# what is kept hardly ever comes again; in bf16 `engine.dense.few_rows` leaves some forty numbers of rows, four products each.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}

# What PyTorch calls Arm's instructions for bf16.
_ARM_BF16 = ("bf16", "sve_bf16")
_AMD = "AuthenticAMD"
_CPU_INFO = Path("/proc/cpuinfo")


def bound_caches() -> None:
    """Bound the memory that computing takes on a CPU, however many lengths of texts come along.

    The environment's own settings stay. PyTorch reads them at its first product: what comes later has no effect.
    """
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)


def usable_cores() -> int:
    """Return how many CPU cores this process may run on, at least one."""
    # macOS does not tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bf16() -> bool:
    """Return whether the CPU has instructions for bf16 that are not known to be slower than those for fp32.

    Arm's have not been run. Intel's AVX512-BF16 is slower: without AMX beside it, a product in bf16 runs at .53 of fp32's rate
    (oneDNN of PyTorch 2.13, Emerald Rapids behind a hypervisor that hides AMX).
    """
    return paying_bf16() is not None or any(there for name, there in _instructions().items() if name in _ARM_BF16)


def multiplies_bf16_in_tiles() -> bool:
    """Return whether the CPU has matrix units for bf16 (AMX), with which bf16 is some seven times as fast as fp32."""
    return bool(_instructions().get("amx_bf16"))


def paying_bf16() -> str | None:
    """Return the CPU's instructions for bf16 that were measured to make a model faster than fp32 does, None for none.

    Those are AMX and AMD's AVX512-BF16. Arm's BFMMLA, which `multiplies_bf16` counts, too, has not been run.
    """
    if multiplies_bf16_in_tiles():
        return "AMX"
    return "AMD's AVX512-BF16" if _instructions().get("avx512_bf16") and cpu_info("vendor_id") == _AMD else None


@functools.cache
def _instructions() -> Mapping[str, Any]:
    import torch  # takes seconds, which those who only count cores need not wait for

    return torch.cpu.get_capabilities()


@functools.cache
def cpu_info(name: str) -> str:
    """Return what Linux says of the first CPU in a line of /proc/cpuinfo, nothing where it doesn't tell."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()  # a model's name can be any bytes
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
