"""How many instances a load takes so that 95 % of the requests are answered in time, and what autoscaling needs for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ko_reranker.capacity.curves import ServiceCurve
from ko_reranker.capacity.queueing import arrivals, latencies
from ko_reranker.capacity.scaling import Autoscaler, Course, follow

MOST_RATE = 10_000.0
# Of an instance's time: beyond it a load that is a little larger, or an instance that is gone, has a queue that never ends.
MOST_UTILISATION = 0.9
_REQUESTS = 40_000
# The first find an empty queue.
_WARM_UP = _REQUESTS // 5
# A pool of more instances is reckoned as several of at most so many, which queue a little more than one would.
_POOL = 1_000
# Requests of a simulated course, all minutes together; a larger load is thinned out, and its instances with it.
_COURSE_REQUESTS = 100_000
_QUIET_MINUTES = _SETTLED_MINUTES = 20
# Targets that are tried, as shares of the highest.
_SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3)


class TooSlow(ValueError):
    """One request alone takes longer than it may: no number of instances helps."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for.

    Attributes:
        rate: requests a second at the busiest, above 0 and at most 10,000.
        documents: of a request.
        tokens: of query and document together.
        p95_seconds: within which 95 % of the requests are to be answered by the endpoint.
        quiet_share: of the rate, at the quietest.
        ramp_minutes: in which it rises from there.
        start_seconds: until an instance that was asked for answers.
    """

    rate: float
    documents: int
    tokens: float
    p95_seconds: float
    quiet_share: float = 0.2
    ramp_minutes: int = 30
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value, above, most in (
            ("rate", self.rate, 0, MOST_RATE),
            ("p95_seconds", self.p95_seconds, 0, 60),
            ("quiet_share", self.quiet_share, 0, 1),
            ("ramp_minutes", self.ramp_minutes, 0, 1440),
        ):
            if not above < value <= most:
                raise ValueError(f"{name} is {value:g}, and has to be above {above} and at most {most:g}")


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes.

    Attributes:
        service_seconds: of a request alone.
        instances: at the busiest.
        p95_seconds, mean_seconds: of a request then, waiting included.
        utilisation: share of the time that an instance computes then.
        least: the fewest instances that autoscaling may go down to.
        target: requests that an instance has at the same time, to be tracked: low enough that those that are asked for as the
            load rises are there in time.
        course: the rise, with instances from ``least`` to ``instances``.
    """

    service_seconds: float
    instances: int
    p95_seconds: float
    mean_seconds: float
    utilisation: float
    least: int
    target: float
    course: Course

    @property
    def quiet_instances(self) -> int:
        """Those that autoscaling keeps at the quietest, after a while."""
        return self.course.instances[_QUIET_MINUTES - 1]


def plan(load: Load, curve: ServiceCurve, seed: int = 0) -> Plan:
    """Return what a load takes on the hardware of a curve.

    Raises:
        CurveError: documents longer than were measured.
        TooSlow: a request alone takes longer than it may.
    """
    service = curve.seconds(load.documents, load.tokens)
    if service > load.p95_seconds:
        raise TooSlow(
            f"one request of {load.documents} documents of {load.tokens:g} tokens takes {service:.3g} s on {curve.hardware}, "
            f"and is to be answered within {load.p95_seconds:g} s: no number of instances helps. Send fewer or shorter "
            "documents, take a smaller model or a faster instance, or allow more time"
        )
    instances = needed(load.rate, service, load.p95_seconds, seed)
    taken = _steady(load.rate, service, instances, seed)
    mean = float(taken.mean())
    # Little's law: what autoscaling may track at most, or it settles below what is needed.
    least, target, course = _scaling(load, service, instances, load.rate * mean / instances, seed)
    return Plan(
        service_seconds=service,
        instances=instances,
        p95_seconds=float(np.quantile(taken, 0.95)),
        mean_seconds=mean,
        utilisation=load.rate * service / instances,
        least=least,
        target=target,
        course=course,
    )


def needed(rate: float, service: float, p95_seconds: float, seed: int = 0) -> int:
    """Return the fewest instances with which 95 % of the requests of a steady load are answered in time.

    None computes more than `MOST_UTILISATION` of the time.

    Args:
        rate: requests a second.
        service: seconds that one takes alone, at most ``p95_seconds``.
    """

    def enough(instances: int) -> bool:
        return float(np.quantile(_steady(rate, service, instances, seed), 0.95)) <= p95_seconds

    low = math.ceil(rate * service / MOST_UTILISATION) - 1
    high = low + 1
    while not enough(high):
        low, high = high, high + max(1, high - math.floor(rate * service))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _steady(rate: float, service: float, instances: int, seed: int) -> np.ndarray:
    """Latencies of a load that stays as it is, seconds, once the queue is what it will be."""
    pools = math.ceil(instances / _POOL)
    return latencies(arrivals(rate / pools, _REQUESTS, seed), service, instances // pools)[_WARM_UP:]


def _scaling(load: Load, service: float, most: int, highest: float, seed: int) -> tuple[int, float, Course]:
    """Return the bounds and the target with which the fewest instances see the load rise, and what becomes of it.

    In time is who is so at every moment, or as good as with all instances from the beginning.
    """
    rise = [load.quiet_share + (1 - load.quiet_share) * minute / load.ramp_minutes for minute in range(load.ramp_minutes)]
    settled = _SETTLED_MINUTES + math.ceil(load.start_seconds / 60)
    shares = [load.quiet_share] * _QUIET_MINUTES + rise + [1.0] * settled
    pool = max(1, most // math.ceil(load.rate * sum(shares) * 60 / _COURSE_REQUESTS))
    rates = [share * load.rate * pool / most for share in shares]
    quiet = min(pool, needed(rates[0], service, load.p95_seconds, seed))

    def course(least: int, target: float) -> Course:
        return follow(rates, service, Autoscaler(least, pool, target, load.start_seconds), seed)

    least, target, best = pool, _rounded(highest), course(pool, highest)
    bound = max(load.p95_seconds, *best.p95)
    for share in _SHARES:
        tried = _rounded(share * highest)
        low, high = quiet - 1, pool
        while high - low > 1:
            middle = (low + high) // 2
            found = course(middle, tried)
            if max(found.p95) > bound:
                low = middle
                continue
            high = middle
            if sum(found.instances) < sum(best.instances):
                least, target, best = middle, tried, found
    scale = most / pool
    instances = tuple(min(most, math.ceil(count * scale)) for count in best.instances)
    return (
        min(most, math.ceil(least * scale)),
        target,
        Course(tuple(share * load.rate for share in shares), instances, best.p95),
    )


def _rounded(target: float) -> float:
    return max(0.01, math.floor(100 * target) / 100)
