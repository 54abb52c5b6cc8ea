"""CUDA on a host whose driver is older than PyTorch's CUDA wants: NVIDIA's forward compatibility.

Training and processing jobs take the driver that SageMaker's host has, and CUDA 13 wants branch 580. The image holds the
user-space libraries of that branch, which run on the kernel modules of older ones
(https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html); on a driver as new or newer they would only
stand in the way of the host's own. Standard library only: it runs before anything is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = Path("/usr/local/cuda/compat")
DRIVER = Path("/proc/driver/nvidia/version")
_PATH = "LD_LIBRARY_PATH"


def use_if_needed() -> None:
    """Start this process anew with the libraries of the image where the host's driver is of an older branch.

    The loader reads its path when a process starts; what this one starts later, such as torchrun's workers, inherits it.
    """
    if wanted := environment(os.environ):
        print(f"The host's NVIDIA driver is older than CUDA's here: taking {LIBRARIES}.", file=sys.stderr, flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606 - its own command line again


def environment(variables: Mapping[str, str], libraries: Path = LIBRARIES, driver: Path = DRIVER) -> dict[str, str] | None:
    """Return the variables of a process that takes the image's libraries; None where it needs none, or has them already.

    Args:
        variables: of this process.
        libraries: the folder with `libcuda.so.1`, a link to the file that carries its version.
        driver: where the kernel module tells its version.
    """
    paths = variables.get(_PATH, "").split(":")
    if str(libraries) in paths:
        return None
    try:
        here = _branch((libraries / "libcuda.so.1").resolve(strict=True).name)
        host = _branch(driver.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None  # no libraries: an image for CPUs. No driver: no GPU, which whoever wants one says better
    if here is None or host is None or host >= here:
        return None
    return {**variables, _PATH: ":".join(filter(None, (str(libraries), *paths)))}


def _branch(text: str) -> int | None:
    """Return the first part of a driver's version, such as 580 of 580.95.05."""
    found = re.search(r"(?<!\d)(\d{3,4})\.\d+", text)
    return int(found[1]) if found else None
