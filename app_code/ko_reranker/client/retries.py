"""When to come again: as the service says, or later and later."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

_AGAIN = {429, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long a client waits.

    Attributes:
        attempts: requests at most, the first included.
        longest_wait: seconds; a service that asks for more gets no further request.
        first_wait: seconds after the first failure, where the service doesn't say; it doubles each time.
    """

    attempts: int = 4
    longest_wait: float = 60.0
    first_wait: float = 0.5

    def wait(self, attempt: int, status: int | None, headers: Mapping[str, str]) -> float | None:
        """Return the seconds to wait before the next request, or None to give up.

        Args:
            attempt: how many requests were made.
            status: of the answer; None when there was none.
            headers: of the answer.
        """
        if attempt >= self.attempts or (status is not None and status not in _AGAIN):
            return None
        asked = _retry_after(headers)
        if asked is not None:
            return asked if asked <= self.longest_wait else None
        return min(self.longest_wait, self.first_wait * 2.0 ** (attempt - 1)) * (0.5 + random.random() / 2)  # noqa: S311


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None
