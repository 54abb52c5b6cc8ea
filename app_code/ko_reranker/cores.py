"""How much of the machine is this process's."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return how many CPU cores this process may run on, at least one."""
    # macOS does not tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
