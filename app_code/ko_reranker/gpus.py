"""Whether PyTorch can use the GPU that is here. Costs nothing where nothing says that there is one."""

from __future__ import annotations

import os
import subprocess
from types import ModuleType

from ko_reranker.container import JobError
from ko_reranker.instances import gpu_of


class GpuUnusable(JobError):
    """There is a GPU, and PyTorch cannot compute on it."""


def check_gpu(instance_type: str | None = None, *, compute: bool = False) -> None:
    """See that nothing is about to be computed on a CPU beside an idle GPU.

    A GPU that ``CUDA_VISIBLE_DEVICES`` hides (by an empty value, or -1) is not meant to be used.

    Args:
        instance_type: of this machine, where SageMaker says it.
        compute: also compute something; it takes some hundred megabytes of the GPU until the process ends.

    Raises:
        GpuUnusable: the instance type or nvidia-smi says that there is a GPU, and PyTorch cannot use it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return
    place = instance_type if instance_type and gpu_of(instance_type) else None
    found = [] if place else _listed()
    if not place and not found:
        return
    import torch  # takes seconds, which machines without a GPU need not wait for

    reason = _trouble(torch, compute)
    if reason:
        what = f"The instance type {place} has a GPU" if place else f"nvidia-smi lists a GPU here ({found[0]})"
        raise GpuUnusable(
            f"{what}, but PyTorch {torch.__version__} cannot use it: {reason}. Nothing is computed on the CPU at a GPU's "
            "price: mend that, take an instance type without a GPU, or say --device cpu (KO_RERANKER_DEVICE=cpu)."
        )


def _listed() -> list[str]:
    """Return the GPUs that the driver's own tool lists; nobody has the tool but who has the driver."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.partition(" (UUID")[0].strip() for line in answer.stdout.splitlines() if line.startswith("GPU ")]


def _trouble(torch: ModuleType, compute: bool) -> str | None:
    """Return why PyTorch cannot use the GPU, None where it can."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return "it is a build without CUDA (`make setup TORCH=cuda` installs one with it)"
    try:
        if not torch.cuda.is_available():
            torch.cuda.init()  # says why, which `is_available` keeps to itself
            return "it sees none"
        if compute:
            torch.ones(1, device="cuda").sum().item()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()).partition(". ")[0][:300].rstrip(".")
    return None
