"""The endpoint's autoscaler at work: a rising load, a queue, and instances that come some minutes after they are asked for.

It tracks a target as Application Auto Scaling does with the metric of `cdk/stacks/serving.py`: requests that an instance has at
the same time. By the minute; while instances are on their way nothing else is decided, as SageMaker takes one change at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ko_reranker.capacity.queueing import serve

MINUTE = 60.0
# Minutes whose requests one percentile is of: a period of the alarm on latency.
_PERIOD = 5
# Minutes between two decisions to add instances, and to take some away (the cooldowns of `cdk/stacks/serving.py`).
_OUT_COOLDOWN, _IN_COOLDOWN = 2, 10
# Target tracking takes instances away once the metric was so far below the target for so many minutes.
_IN_BELOW, _IN_MINUTES = 0.9, 15


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """Its bounds and its target.

    Attributes:
        least, most: instances.
        target: requests that an instance has at the same time, on average.
        start_seconds: until an instance that was asked for answers.
    """

    least: int
    most: int
    target: float
    start_seconds: float


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a load, minute by minute.

    Attributes:
        rates: requests a second that came.
        instances: that were in service.
        p95: of the latencies of those that came in the minute and the four before it, seconds; 0 where none came.
    """

    rates: tuple[float, ...]
    instances: tuple[int, ...]
    p95: tuple[float, ...]


def follow(rates: list[float], service: float, scaler: Autoscaler, seed: int) -> Course:
    """Return what becomes of a load that changes from minute to minute.

    Args:
        rates: requests a second of each minute.
        service: seconds that a request takes alone.
    """
    draw = np.random.default_rng(seed)
    counts = draw.poisson(np.array(rates) * MINUTE)
    minute_of = np.repeat(np.arange(len(rates)), counts)
    came = np.sort((minute_of + draw.uniform(size=len(minute_of))) * MINUTE)
    ends = np.cumsum(counts).tolist()
    free, finished = np.zeros(scaler.least), np.zeros(0)
    coming: tuple[float, int] | None = None  # when so many instances more answer
    last_out, last_in, calm, instances = -_OUT_COOLDOWN, -_IN_COOLDOWN, 0, []
    for minute, arrived in enumerate(ends):
        begin, end = minute * MINUTE, (minute + 1) * MINUTE
        if coming and coming[0] <= begin:
            free, coming = np.sort(np.concatenate([free, np.full(coming[1], begin)])), None
        instances.append(len(free))
        done, free = serve(came[len(finished) : arrived], service, free, until=end)
        finished = np.concatenate([finished, done])
        metric = _concurrency(came[:arrived], finished, begin, end) / len(free)
        calm = calm + 1 if metric < _IN_BELOW * scaler.target else 0
        wanted = min(scaler.most, max(scaler.least, math.ceil(len(free) * metric / scaler.target)))
        if coming is None and wanted > len(free) and minute - last_out >= _OUT_COOLDOWN:
            coming, last_out = (end + scaler.start_seconds, wanted - len(free)), minute
        elif coming is None and wanted < len(free) and calm >= _IN_MINUTES and minute - max(last_in, last_out) >= _IN_COOLDOWN:
            # Those go that are free first.
            free, last_in = free[-wanted:], minute
    # What still waits at the end is answered by what is there then.
    taken = np.concatenate([finished, serve(came[len(finished) :], service, free, until=math.inf)[0]]) - came
    p95 = []
    for minute, last in enumerate(ends):
        period = taken[ends[minute - _PERIOD] if minute >= _PERIOD else 0 : last]
        p95.append(float(np.quantile(period, 0.95)) if len(period) else 0.0)
    return Course(tuple(rates), tuple(instances), tuple(p95))


def _concurrency(came: np.ndarray, finished: np.ndarray, begin: float, end: float) -> float:
    """How many requests were there at the same time on average; those that nobody has begun with are there until the end."""
    there = np.searchsorted(finished, begin)
    gone = np.full(len(came) - there, end)
    gone[: len(finished) - there] = finished[there:]
    return float((np.minimum(gone, end) - np.maximum(came[there:], begin)).sum() / (end - begin))
