"""The file that a benchmark leaves: machine, date, versions, figures, ratios."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ko_reranker.processor import cpu_info

RESULTS = Path(__file__).parent / "results"
# The CPU's flags, widest first, and what they are called.
WIDEST = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"), ("avx512f", "AVX512"))


def machine() -> str:
    """Return what the figures were measured on, without a name of its own."""
    return f"{_model()}, {os.cpu_count()} CPUs, {platform.system()}"


def processor() -> str:
    """Return the processor's family: its model's name, and the widest unit that it multiplies with."""
    flags = cpu_info("flags").split()
    return ", ".join([_model(), *[name for flag, name in WIDEST if flag in flags][:1]])


def _model() -> str:
    return cpu_info("model name") or platform.processor() or platform.machine()


def read(name: str) -> dict[str, Any]:
    """Return the last results of a benchmark, empty ones when there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": {}, "ratios": {}, "versions": {}}


def write(name: str, versions: dict[str, str], figures: dict[str, Any], ratios: dict[str, Any]) -> Path:
    """Write the results of a benchmark and return the file."""
    content = {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": dict(sorted(versions.items())),
        "figures": figures,
        "ratios": ratios,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return the median of some values and their 10th and 90th percentiles."""
    low, median, high = np.percentile(values, [10, 50, 90])
    return {"median": round(float(median), digits), "p10": round(float(low), digits), "p90": round(float(high), digits)}


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Return how many times as long others took, request by request."""
    return spread([one / other for one, other in zip(theirs, ours, strict=True)], 2)


def same_order(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> int:
    """Return in how many requests two rank all documents alike."""
    pairs = zip(some, others, strict=True)
    return sum(np.argsort(-np.array(one)).tolist() == np.argsort(-np.array(other)).tolist() for one, other in pairs)
