"""What this process has to compute with."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

# oneDNN keeps the code of a product for each number of rows that it has met, and PyTorch's own cache above it some more: 1,024
# of each by default, for each linear layer's shape, which is more than a gigabyte. In fp32 texts have ever new lengths, so that
# what is kept hardly ever comes again; in bf16 `engine.dense.few_rows` leaves some forty numbers of rows, four products each.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}


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
    """Return whether the CPU has instructions for bf16; without them bf16 is slower than fp32."""
    return any(there for name, there in _instructions().items() if name.endswith("bf16"))


def multiplies_bf16_in_tiles() -> bool:
    """Return whether the CPU has matrix units for bf16 (AMX), with which bf16 is some seven times as fast as fp32."""
    return bool(_instructions().get("amx_bf16"))


def paying_bf16() -> str | None:
    """Return the CPU's instructions for bf16 that were measured to make a model faster than fp32 does, None for none.

    Those are AMX and AVX512-BF16. Arm's BFMMLA, which `multiplies_bf16` counts, too, has not been run.
    """
    if multiplies_bf16_in_tiles():
        return "AMX"
    return "AVX512-BF16" if _instructions().get("avx512_bf16") else None


@functools.cache
def _instructions() -> Mapping[str, Any]:
    import torch  # takes seconds, which those who only count cores need not wait for

    return torch.cpu.get_capabilities()
