"""What /metrics shows, in the text format of Prometheus: how many, how much, how long, and how often it went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)  # seconds
_FACTS = ("documents", "tokens", "truncated", "blank")


class Counters:
    """Counts since the start; lives on the event loop."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[int, str]] = Counter()
        self._facts: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def answered(self, seconds: float, facts: Mapping[str, Any]) -> None:
        """Count an answered request."""
        self._requests[200, "none"] += 1
        self._facts.update({name: facts[name] for name in _FACTS if name in facts})
        self._seconds += seconds
        self._buckets.update(limit for limit in _BUCKETS if seconds <= limit)

    def refused(self, status: int, error_type: str) -> None:
        """Count a request that got an error."""
        self._requests[status, error_type] += 1

    def render(self) -> str:
        """Return everything counted so far."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# HELP ko_reranker_requests_total Requests by status and kind of error."
        yield "# TYPE ko_reranker_requests_total counter"
        for (status, error), count in sorted(self._requests.items()):
            yield f'ko_reranker_requests_total{{status="{status}",error="{error}"}} {count}'
        for name in _FACTS:
            yield f"# TYPE ko_reranker_{name}_total counter"
            yield f"ko_reranker_{name}_total {self._facts[name]}"
        answered = self._requests[200, "none"]
        yield "# HELP ko_reranker_seconds Time of an answered request."
        yield "# TYPE ko_reranker_seconds histogram"
        for limit in _BUCKETS:
            yield f'ko_reranker_seconds_bucket{{le="{limit:g}"}} {self._buckets[limit]}'
        yield f'ko_reranker_seconds_bucket{{le="+Inf"}} {answered}'
        yield f"ko_reranker_seconds_sum {self._seconds:.6f}"
        yield f"ko_reranker_seconds_count {answered}"
