"""What serving shows of itself: how releases, the endpoint and its instances do."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs

from cdk.constructs.hosting import SILENT, VARIANT, alarm_names
from cdk.constructs.observed import Graph, Observed, Query, Watch, executions, failure_watch, labelled
from cdk.constructs.undelivered import Undelivered
from ko_reranker.settings import Settings


def observed_serving(stack: cdk.Stack, settings: Settings, age: cloudwatch.Metric, undelivered: Undelivered) -> Observed:
    """Return graphs, watches and queries of releases, and of the endpoint where there is one.

    Args:
        age: of the live model, in days.
        undelivered: what reached nobody of what starts releases.
    """
    releases = executions(stack, f"{settings.prefix}-deploy")
    graphs = [Graph(title="Releases", metrics=releases), Graph(title="Age of the live model, days", metrics=[age])]
    watches = [
        failure_watch("release-failed", "A release failed or ran out of time", releases),
        undelivered.watch(
            "release-not-started",
            "An approval, a change of the endpoint or a notice reached nobody: its target did not take it",
        ),
    ]
    if settings.alerts.model_age_days:
        watches.append(
            Watch(
                name="model-stale",
                says=f"The live model is older than {settings.alerts.model_age_days} days",
                metric=age,
                above=settings.alerts.model_age_days,
            )
        )
    if not settings.serving.enabled:
        return Observed(title="Serving", graphs=graphs, watches=watches)
    endpoint = _Endpoint(settings.prefix)
    return Observed(
        title="Serving",
        graphs=[*endpoint.graphs(), *graphs],
        watches=[*watches, endpoint.silence()],
        queries=[_failures(stack, settings.prefix)],
        alarms=alarm_names(settings),
    )


class _Endpoint:
    """What SageMaker counts of the endpoint and its instances."""

    def __init__(self, name: str) -> None:
        self._dimensions = {"EndpointName": name, "VariantName": VARIANT}

    def graphs(self) -> list[Graph]:
        return [
            Graph(
                title="Calls of the endpoint",
                metrics=[
                    self._requests("Invocations", "Sum", "calls"),
                    self._requests("Invocation4XXErrors", "Sum", "4xx"),
                    self._requests("Invocation5XXErrors", "Sum", "5xx"),
                ],
                right=[self._requests("ConcurrentRequestsPerModel", "Maximum", "computed and waiting")],
            ),
            Graph(
                title="Latency of the endpoint",
                unit="µs",
                metrics=[self._requests("ModelLatency", statistic, statistic) for statistic in ("p50", "p95", "p99")],
                right=[self._requests("OverheadLatency", "p95", "p95 of SageMaker's own")],
            ),
            Graph(
                title="Utilisation of an instance",
                unit="%",
                metrics=[
                    self._instances("CPUUtilization", "CPU, 100 a core"),
                    self._instances("MemoryUtilization", "memory"),
                    self._instances("GPUUtilization", "GPU, 100 each"),
                    self._instances("GPUMemoryUtilization", "GPU memory, 100 each"),
                ],
            ),
        ]

    def silence(self) -> Watch:
        return Watch(
            name=SILENT,
            says="No instance of the endpoint reports that it runs",
            # There is no metric of healthy instances; each that runs reports what it uses, once a minute.
            # https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
            metric=self._instances("CPUUtilization", "reports", "SampleCount"),
            below=1,
            periods=2,
            silence_is_wrong=True,
        )

    def _requests(self, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        return labelled("AWS/SageMaker", name, self._dimensions, statistic, label)

    def _instances(self, name: str, label: str, statistic: str = "Average") -> cloudwatch.Metric:
        return labelled("/aws/sagemaker/Endpoints", name, self._dimensions, statistic, label)


def _failures(stack: cdk.Stack, endpoint: str) -> Query:
    log = logs.LogGroup.from_log_group_name(stack, "EndpointLog", f"/aws/sagemaker/Endpoints/{endpoint}")
    return Query(
        name="What the containers warn of",
        log_groups=[log],
        text=[
            "fields @timestamp, @logStream, @message",
            "filter @message like /(?i)error|warn/",
            "sort @timestamp desc",
            "limit 100",
        ],
    )
