"""What /metrics shows: how many, how much, how long in which phase, how full the batches, and how often it went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import __version__
from ..protocol import ServiceFacts

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from ..rankers.vectors import VectorCache

PHASES = ("parse", "tokenise", "queue", "compute", "render", "total")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
_TOKENS = tuple(2**exponent for exponent in range(6, 18))  # 64 to 131,072
_REQUEST_TOKENS = tuple(4**exponent for exponent in range(3, 12))  # 64 to 4,194,304
# What a request's facts and the counters have in common: the name, and what it counts.
_COUNTED = {
    "documents": "Documents of answered requests.",
    "tokens": "Tokens that the model read for them, the query's included.",
    "truncated": "Documents whose end was not read; its rate over that of documents is the truncated share.",
    "chunked": "Documents that were read in several chunks.",
    "blank": "Documents without any text, which the model never sees.",
}


class Metrics:
    """Everything counted since the start, in a registry of its own.

    Also an :class:`ko_reranker.engine.EngineObserver`, told of every batch from whichever thread computed it.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ko_reranker_requests",
            "Requests by HTTP status and kind of error; 499 is a client that went away before its answer.",
            ["status", "error"],
            registry=registry,
        )
        self._in_progress = Gauge(
            "ko_reranker_requests_in_progress", "Rerank requests read, waiting or scored just now.", registry=registry
        )
        self._seconds = Histogram(
            "ko_reranker_phase_seconds",
            "Time of an answered request by phase; the total includes reading its body.",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._counted = {name: Counter(f"ko_reranker_{name}", text, registry=registry) for name, text in _COUNTED.items()}
        self._batch_tokens = Histogram(
            "ko_reranker_batch_tokens",
            "Tokens of texts in a forward pass of the model.",
            buckets=_TOKENS,
            registry=registry,
        )
        self._request_tokens = Histogram(
            "ko_reranker_request_tokens",
            "Tokens that a query brought to the model with all of its documents.",
            buckets=_REQUEST_TOKENS,
            registry=registry,
        )
        self._computed_tokens = Counter(
            "ko_reranker_computed_tokens",
            "Tokens that were computed, padding included; what the batch tokens lack of them is padding.",
            registry=registry,
        )
        self._batch_seconds = Counter("ko_reranker_batch_seconds", "Time spent in forward passes.", registry=registry)
        self._sequences = Counter("ko_reranker_sequences", "Queries with a document in forward passes.", registry=registry)
        self._waiting_requests = Gauge(
            "ko_reranker_waiting_requests", "Requests that the engine has not finished.", registry=registry
        )
        self._waiting_tokens = Gauge("ko_reranker_waiting_tokens", "Tokens that are still to be computed.", registry=registry)
        self._model = Info("ko_reranker_model", "What is served.", registry=registry)
        self._vectors = _Vectors()
        registry.register(self._vectors)
        # Memory, CPU time and open files of this process; Linux only, elsewhere it shows nothing.
        ProcessCollector(registry=registry)
        for phase in PHASES:
            self._seconds.labels(phase)

    def describe(self, facts: ServiceFacts) -> None:
        """Say which model is served."""
        told = {"model": facts.model, "max_length": str(facts.max_length), "precision": facts.precision or ""}
        self._model.info(told | {"version": __version__})

    def watch(self, in_progress: Callable[[], int], waiting: Callable[[], tuple[int, int]]) -> None:
        """Read the present state whenever somebody asks for the metrics.

        Args:
            in_progress: how many rerank requests are read, waiting or scored now.
            waiting: how many of them, and how many tokens, the engine has yet to score.
        """
        self._in_progress.set_function(in_progress)
        self._waiting_requests.set_function(lambda: waiting()[0])
        self._waiting_tokens.set_function(lambda: waiting()[1])

    def watch_vectors(self, cache: VectorCache) -> None:
        """Read the state of the documents' vectors that are kept whenever somebody asks for the metrics."""
        self._vectors.cache = cache

    def answered(self, seconds: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Count an answered rerank request.

        Args:
            seconds: its phases.
            facts: what its log line says.
        """
        self._requests.labels("200", "none").inc()
        for name, counter in self._counted.items():
            counter.inc(facts.get(name, 0))
        for phase, value in seconds.items():
            self._seconds.labels(phase).observe(value)

    def refused(self, status: int, error_type: str) -> None:
        """Count a request that got an error, or nothing."""
        self._requests.labels(str(status), error_type).inc()

    def batch(self, *, sequences: int, tokens: int, computed_tokens: int, seconds: float) -> None:
        """Count a forward pass."""
        self._batch_tokens.observe(tokens)
        self._computed_tokens.inc(computed_tokens)
        self._batch_seconds.inc(seconds)
        self._sequences.inc(sequences)

    def request(self, *, sequences: int, tokens: int, queue_seconds: float, compute_seconds: float) -> None:
        """Count what the engine was asked at once; how long it took is in the phases of the request."""
        self._request_tokens.observe(tokens)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type, for a scraper that accepts this."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Vectors(Collector):
    """Shows how a cache of documents' vectors does, zeros where there is none."""

    cache: VectorCache | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield what the cache counts."""
        cache = self.cache
        hits, misses, held = (cache.hits, cache.misses, cache.held) if cache else (0, 0, 0)
        name = "ko_reranker_vector_cache"
        yield CounterMetricFamily(f"{name}_hits", "Documents, or chunks of them, whose vectors were kept.", hits)
        yield CounterMetricFamily(f"{name}_misses", "Documents, or chunks of them, whose vectors were computed.", misses)
        yield GaugeMetricFamily(f"{name}_bytes", "Bytes that the kept vectors take.", held)
