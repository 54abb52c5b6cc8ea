"""What this process has to compute with."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return how many CPU cores this process may run on, at least one."""
    # macOS does not tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bf16() -> bool:
    """Return whether the CPU has instructions for bf16; without them bf16 is slower than fp32."""
    import torch  # takes seconds, which those who only count cores need not wait for

    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
