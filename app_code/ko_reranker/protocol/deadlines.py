"""How long a caller of the endpoint waits, told with the invocation: nothing is computed for one that has gone.

SageMaker hands the header of custom attributes on to the container as it is (at most 1,024 characters of ASCII); the time is
relative, so that no two clocks need to agree.
"""

from __future__ import annotations

import math
import re

TIMEOUT_HEADER = "X-Amzn-SageMaker-Custom-Attributes"

# What the way there and back may take: the container answers "too slow" while somebody still listens.
_WAY_SECONDS, _LEAST_SECONDS = 0.5, 0.1
_TIMEOUT = re.compile(r"(?:^|[;,\s])timeout=(\d{1,6}(?:\.\d{1,6})?)(?=$|[;,\s])")


def write_timeout(seconds: float) -> str:
    """Return the header's value for a caller that waits so many seconds."""
    return f"timeout={max(_LEAST_SECONDS, seconds - _WAY_SECONDS):.3f}"


def read_timeout(value: str | None) -> float:
    """Return the seconds that a header's value allows; without any, or with something else in it, infinitely many."""
    found = _TIMEOUT.search(value or "")
    return float(found.group(1)) if found else math.inf
