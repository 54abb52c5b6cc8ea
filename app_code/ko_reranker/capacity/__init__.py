"""How many instances a load takes: measured service times, a queue before them, and the autoscaler that adds instances.

Nothing here is assumed of a machine: a service time is one that `benchmarks.service` measured on hardware that it names.
"""

from .curves import CurveError, ServiceCurve, choose, read_curves
from .planning import Load, Plan, TooSlow, plan
from .queueing import arrivals, latencies
from .scaling import Autoscaler, Course, follow

__all__ = [
    "Autoscaler",
    "Course",
    "CurveError",
    "Load",
    "Plan",
    "ServiceCurve",
    "TooSlow",
    "arrivals",
    "choose",
    "follow",
    "latencies",
    "plan",
    "read_curves",
]
