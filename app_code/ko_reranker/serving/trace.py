"""What is known of one request while it is answered: for its log line and for the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Trace:
    """Facts and times of a request; never its texts.

    Args:
        request_id: what the request is called in the logs.

    Attributes:
        arrived: when it came, on the clock of `time.monotonic`.
        facts: for the log line.
        seconds: how long each phase took; with ``total`` once it is asked for.
    """

    def __init__(self, request_id: str) -> None:
        self._started, self.arrived = time.perf_counter(), time.monotonic()
        self.request_id = request_id
        self.facts: dict[str, Any] = {"request_id": request_id}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started

    def finish(self) -> dict[str, Any]:
        """Return everything as the fields of a log line."""
        self.seconds["total"] = time.perf_counter() - self._started
        phases = {name: round(seconds * 1000, 1) for name, seconds in self.seconds.items()}
        total = phases.pop("total")
        return {**self.facts, "milliseconds": total, **({"phases": phases} if phases else {})}
