"""What this process has to compute with."""

from __future__ import annotations

import os

# oneDNN keeps the code of a product for each number of rows that it has met, and PyTorch's own cache above it some more: 1,024
# of each by default, for each linear layer's shape, which is more than a gigabyte. Texts have ever new lengths, so that what is
# kept hardly ever comes again: with 64 a pass is not slower.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


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
    import torch  # takes seconds, which those who only count cores need not wait for

    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
