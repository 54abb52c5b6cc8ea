"""Instance types: which GPU one has, and which precisions that computes in. Standard library only: Lambdas ask here, too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# What a model's weights and activations are computed in; auto takes what is fastest where it is exact.
Dtype = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Capability = tuple[int, int]
# A type of SageMaker's, such as ml.g5.12xlarge.
INSTANCE_TYPE = r"ml\.[a-z0-9-]+\.[a-z0-9]+"

# Flash attention and bf16 begin with Ampere: "FlashAttention only supports Ampere GPUs or newer" (PyTorch,
# ATen/native/transformers/cuda/flash_attn/flash_api.cpp), and its kernels for bf16 are compiled for sm_80 and up alone.
AMPERE: Capability = (8, 0)
# What CUDA 13 still compiles for, and with it PyTorch's builds: Turing and newer (CUDA 13.0's release notes).
OLDEST: Capability = (7, 5)


@dataclass(frozen=True, slots=True)
class Gpu:
    """The kind of GPU of an instance type.

    Attributes:
        name: what people call it.
        capability: its compute capability, None for a family that is newer than this table.
        memory_gb: GiB of one, None for such a family.
    """

    name: str
    capability: Capability | None
    memory_gb: int | None = None


# By EC2's families (docs.aws.amazon.com/ec2/latest/instancetypes/ac.html).
_FAMILIES = {
    "g4dn": Gpu("T4", (7, 5), 16),
    "g5": Gpu("A10G", (8, 6), 24),
    "g5g": Gpu("T4G", (7, 5), 16),
    "g6": Gpu("L4", (8, 9), 24),
    "gr6": Gpu("L4", (8, 9), 24),
    "g6e": Gpu("L40S", (8, 9), 48),
    "p2": Gpu("K80", (3, 7), 12),
    "p3": Gpu("V100", (7, 0), 16),
    "p3dn": Gpu("V100", (7, 0), 32),
    "p4d": Gpu("A100", (8, 0), 40),
    "p4de": Gpu("A100", (8, 0), 80),
    "p5": Gpu("H100", (9, 0), 80),
    "p5e": Gpu("H200", (9, 0), 141),
    "p5en": Gpu("H200", (9, 0), 141),
    "p6-b200": Gpu("B200", (10, 0), 179),
}


def gpu_of(instance_type: str) -> Gpu | None:
    """Return the GPU of an instance type such as ``ml.g5.xlarge``, None for one without."""
    family = instance_type.removeprefix("ml.").partition(".")[0]
    if re.match(r"(g|gr|p)\d", family) is None:
        return None
    return _FAMILIES.get(family, Gpu(f"GPU of {family}", None))


# With instructions for bf16 that pay (`processor.paying_bf16`): AMX on Intel's Xeons from the fourth generation on, Sapphire
# Rapids (7i) and Granite Rapids (8i); AMD's AVX512-BF16 on EPYCs from the fourth on, Genoa (7a) and Turin (8a)
# (aws.amazon.com/ec2/instance-types/m7i, …/m7a and so on).
_WITH_BF16 = re.compile(r"(ml\.)?[mcr](?:[78]i(-flex)?|7iz|[78]a)\.")


def auto_precision(instance_type: str, *, bf16_pays: bool) -> Dtype:
    """Return what ``auto`` is on an instance type, by the rule of `EngineOptions.dtype`.

    Args:
        instance_type: such as ``ml.c7i.xlarge``.
        bf16_pays: whether the model is one that takes bf16 on a CPU that has instructions for it.
    """
    gpu = gpu_of(instance_type)
    if gpu is not None:
        return "fp16" if gpu.capability is not None and gpu.capability < AMPERE else "bf16"
    return "bf16" if bf16_pays and _WITH_BF16.match(instance_type) else "fp32"


def judging_precision(asked: Dtype, *, served_on: str, judged_on: str) -> Dtype:
    """Return what to ask of an evaluation's instance, so that a model is judged in what an endpoint will serve it in.

    That is auto where it means the same on both, and where the evaluation's instance has no instructions for the endpoint's;
    its report then says what it was.

    Args:
        asked: of the endpoint.
        served_on: the endpoint's instance type.
        judged_on: the evaluation's.
    """
    served, judged = ({auto_precision(kind, bf16_pays=pays) for pays in (True, False)} for kind in (served_on, judged_on))
    # What is served depends on the model's family, which settings don't know.
    if asked != "auto" or served == judged or len(served) > 1:
        return asked
    (wanted,) = served
    there = wanted == "fp32" or wanted in judged or (wanted == "fp16" and gpu_of(judged_on) is not None)
    return wanted if there else "auto"


# GiB of the size large, by the kind of EC2's families (docs.aws.amazon.com/ec2/latest/instancetypes, gp, co and mo).
_LARGE_GB = {"c": 4, "m": 8, "r": 16}


def memory_of(instance_type: str) -> int | None:
    """Return the GiB that a model has on an instance type: those of one GPU, or the instance's own where it has none.

    None for a family or a size that is not known here.
    """
    if gpu := gpu_of(instance_type):
        return gpu.memory_gb
    found = re.fullmatch(r"ml\.([cmr])\d[a-z]*\.(?:large|(\d*)xlarge)", instance_type)
    if not found:
        return None
    kind, larges = found.groups()
    return _LARGE_GB[kind] * (1 if larges is None else 2 * int(larges or 1))


def refusal(instance_type: str, precision: str) -> str | None:
    """Return why a model cannot be computed in a precision on an instance type, in one sentence; None where it can.

    Args:
        instance_type: such as ``ml.g4dn.xlarge``.
        precision: fp32, bf16, fp16, int8, or auto, which takes what the instance has.
    """
    gpu = gpu_of(instance_type)
    if gpu is None or gpu.capability is None:
        return None
    if gpu.capability < OLDEST:
        return (
            f"{instance_type} has a {gpu.name}, which PyTorch's builds for CUDA 13 no longer support: take a newer one, "
            "such as ml.g5.xlarge"
        )
    if precision == "bf16" and gpu.capability < AMPERE:
        return f"{instance_type} has a {gpu.name}, which has no bf16: take fp16, or a newer GPU such as ml.g5.xlarge"
    if precision == "int8":
        return f"int8 is for CPUs, and {instance_type} has a GPU: take auto, or an instance without one"
    return None
