"""What the API shows of itself: how its requests and its functions do."""

from __future__ import annotations

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs

from cdk.constructs.observed import FIVE_MINUTES, Graph, Observed, Query, Watch, labelled, share
from cdk.constructs.python_function import PythonFunction
from ko_reranker.settings import Alerts, Settings


def observed_api(
    settings: Settings, rerank: PythonFunction, authorizer: PythonFunction, access_log: logs.ILogGroup
) -> Observed:
    """Return graphs, watches and queries of the API.

    Args:
        rerank: answers the requests.
        authorizer: says who may ask.
        access_log: where API Gateway writes who asked what.
    """
    metrics = _Metrics(settings, rerank, authorizer)
    return Observed(
        title="API",
        graphs=_graphs(metrics),
        watches=_watches(metrics, settings.alerts),
        queries=_queries(rerank.log_group, access_log),
    )


class _Metrics:
    """The metrics of API Gateway, of the functions, and those that the rerank function writes itself."""

    def __init__(self, settings: Settings, rerank: PythonFunction, authorizer: PythonFunction) -> None:
        self._settings, self._functions = settings, {"rerank": rerank, "authorizer": authorizer}
        self.requests, self.errors = self.api("Count", "Sum", "requests"), self.api("5XXError", "Sum", "5xx")
        self.documents = self.own("documents", "Sum", "documents")
        self.function_errors, self.throttles = self._of_both("Errors"), self._of_both("Throttles")
        self.at_once = rerank.metric("ConcurrentExecutions", "Maximum", "rerank: at once")

    def api(self, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        dimensions = {"ApiName": self._settings.prefix, "Stage": "api"}
        return labelled("AWS/ApiGateway", name, dimensions, statistic, label)

    def own(self, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        return labelled(self._settings.name, name, {"endpoint": self._settings.prefix}, statistic, label)

    def refusals(self) -> cloudwatch.MathExpression:
        """The answers that are errors, a line a type."""
        name, endpoint = self._settings.name, self._settings.prefix
        return cloudwatch.MathExpression(
            expression=f'SEARCH(\'{{"{name}",endpoint,error_type}} MetricName="errors" endpoint="{endpoint}"\', \'Sum\', 300)',
            label="",
            period=FIVE_MINUTES,
        )

    def _of_both(self, name: str) -> cloudwatch.MathExpression:
        kind = name.lower()
        metrics = {
            f"{function}_{kind}": construct.metric(name, "Sum", f"{function}: {kind}")
            for function, construct in self._functions.items()
        }
        return cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({metric}, 0)" for metric in metrics),
            using_metrics=metrics,
            label=kind,
            period=FIVE_MINUTES,
        )


def _graphs(metrics: _Metrics) -> list[Graph]:
    cut = share(metrics.own("truncated", "Sum", "truncated"), metrics.documents, "cut documents, %")
    return [
        Graph(title="Requests", metrics=[metrics.requests, metrics.api("4XXError", "Sum", "4xx"), metrics.errors]),
        Graph(
            title="Latency",
            unit="ms",
            metrics=[metrics.api("Latency", statistic, statistic) for statistic in ("p50", "p90", "p95", "p99")],
            right=[metrics.own("upstream_latency", "p95", "p95 of the model")],
        ),
        Graph(title="Answers that are errors, by type", metrics=[metrics.refusals()]),
        Graph(
            title="Documents and tokens",
            metrics=[metrics.documents, metrics.own("tokens", "Sum", "tokens")],
            right=[cut],
        ),
        Graph(title="Functions", metrics=[metrics.function_errors, metrics.throttles], right=[metrics.at_once]),
    ]


def _watches(metrics: _Metrics, alerts: Alerts) -> list[Watch]:
    return [
        Watch(
            name="api-errors",
            says=f"The API answers more than {alerts.api_error_percent:g} % of the requests with server errors",
            metric=share(metrics.errors, metrics.requests, "5xx, %", at_least=20),
            above=alerts.api_error_percent,
            periods=2,
        ),
        Watch(
            name="api-latency",
            says=f"The slowest twentieth of the API's answers takes over {alerts.api_p95_seconds:g} seconds",
            metric=metrics.api("Latency", "p95", "p95"),
            above=alerts.api_p95_seconds * 1000,
            periods=3,
        ),
        Watch(
            name="function-errors",
            says="The API's functions fail, by a defect or for want of time or memory",
            metric=metrics.function_errors,
            above=0,
            periods=2,
        ),
        Watch(
            name="function-throttles",
            says="Lambda refuses the API's functions concurrency",
            metric=metrics.throttles,
            above=0,
            periods=2,
        ),
    ]


def _queries(log: logs.ILogGroup, access_log: logs.ILogGroup) -> list[Query]:
    return [
        Query(
            name="Slowest requests",
            log_groups=[log],
            text=[
                "fields @timestamp, request_id, latency, upstream_latency, upstream_calls, documents, tokens, dialect",
                "filter ispresent(latency)",
                "sort latency desc",
                "limit 50",
            ],
        ),
        Query(
            name="Errors by type and cause",
            log_groups=[log],
            text=[
                "filter status >= 400",
                "stats count(*) as requests by status, error_type, param, bin(1h)",
                "sort requests desc",
            ],
        ),
        Query(
            name="Cold starts",
            log_groups=[log],
            text=[
                'filter type = "platform.report" and ispresent(record.metrics.initDurationMs)',
                "stats count(*) as cold_starts, max(record.metrics.initDurationMs) as slowest_ms by bin(1h)",
            ],
            shown=True,
        ),
        Query(
            name="Requests by key",
            log_groups=[access_log],
            text=[
                "filter ispresent(api_key_id)",
                "stats count(*) as requests, avg(milliseconds) as mean_ms by api_key_id, status",
                "sort requests desc",
            ],
        ),
    ]
