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

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Return what the figures were measured on, without a name of its own."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()}"


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
