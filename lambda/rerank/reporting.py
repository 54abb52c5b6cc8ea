"""One JSON line per request: a structured log and CloudWatch metrics (embedded metric format) in one.

It says how much and how long, never what: no query, no document, no key.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

from ko_reranker.embedded_metrics import MetricLine
from ko_reranker.protocol import ProtocolError, RerankRequest, RerankResult

_MILLISECONDS, _COUNT = "Milliseconds", "Count"


class Report:
    """Collects the facts of one request.

    Args:
        namespace: the CloudWatch namespace.
        endpoint: the name of the SageMaker endpoint, the metrics' dimension.
        request_id: API Gateway's id of the request.
    """

    def __init__(self, namespace: str, endpoint: str, request_id: str) -> None:
        self.request_id = request_id
        self.upstream_milliseconds: float | None = None
        self.count_milliseconds: float | None = None
        self._namespace = namespace
        self._endpoint = endpoint
        self._started = time.perf_counter()
        self._upstream_calls = 0
        self._status = 200
        self._facts: dict[str, Any] = {}
        self._metrics: dict[str, tuple[str, float]] = {}
        self._worth_a_line = False

    def request(self, request: RerankRequest) -> None:
        """Note what is asked for."""
        self._worth_a_line = True
        self._facts["dialect"] = request.dialect
        self._metrics["documents"] = (_COUNT, len(request.documents))

    def count_call(self) -> None:
        """Note a call to the endpoint."""
        self._upstream_calls += 1

    def uncounted(self, cause: str) -> None:
        """Note that the table of counts gave no answer, and the request went on without it."""
        self._facts["uncounted_cause"] = cause
        self._metrics["uncounted"] = (_COUNT, 1)

    def woke(self) -> None:
        """Note that this request has the endpoint brought back."""
        self._metrics["wakes"] = (_COUNT, 1)

    def not_woken(self, cause: str) -> None:
        """Note why the endpoint, which is away, isn't brought back by this request."""
        self._facts["not_woken_cause"] = cause

    def result(self, result: RerankResult) -> None:
        """Note what was answered."""
        self._facts["model"] = result.model
        self._metrics["tokens"] = (_COUNT, sum(result.tokens))
        self._metrics["truncated"] = (_COUNT, sum(result.truncated))

    def fail(self, error: ProtocolError, cause: Any = None) -> None:
        """Note why there is no answer."""
        self._worth_a_line = True
        self._status = error.status
        self._facts |= {"error_type": error.error_type, "param": error.param}
        cause = cause or getattr(error, "cause", None)
        if cause:
            self._facts["cause"] = cause

    def emit(self) -> None:
        """Write the line, unless there is nothing to tell."""
        if not self._worth_a_line:
            return
        metrics = {"latency": (_MILLISECONDS, _milliseconds(time.perf_counter() - self._started)), **self._metrics}
        if self.upstream_milliseconds is not None:
            metrics["upstream_latency"] = (_MILLISECONDS, round(self.upstream_milliseconds, 1))
            metrics["upstream_calls"] = (_COUNT, self._upstream_calls)
        if self.count_milliseconds is not None:
            metrics["count_latency"] = (_MILLISECONDS, round(self.count_milliseconds, 1))
        line = MetricLine(
            self._namespace,
            {"request_id": self.request_id, "endpoint": self._endpoint, "status": self._status, **self._facts},
        )
        line.add(metrics, ["endpoint"])
        if self._status != 200:
            line.add({"errors": (_COUNT, 1)}, ["endpoint"], ["endpoint", "error_type"])
        line.write()


def defect(error: BaseException) -> dict[str, Any]:
    """Return where an unexpected error came from, without its message, which may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno}" for frame in frames]}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
