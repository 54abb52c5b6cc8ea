"""What a stack shows of itself to whoever operates it, without saying where it is drawn or who is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs

from ko_reranker.settings import Alerts

FIVE_MINUTES = cdk.Duration.minutes(5)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Metrics over time.

    Attributes:
        metrics: with their labels; those of `right` have an axis of their own.
        unit: what the left axis counts, such as ``ms``.
    """

    title: str
    metrics: Sequence[cloudwatch.IMetric]
    right: Sequence[cloudwatch.IMetric] = ()
    unit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """When somebody has to be told.

    Attributes:
        name: the alarm's, behind the stage's prefix; also the heading of its runbook.
        says: what is wrong, in a sentence without its full stop.
        metric: what is compared.
        above: the value past which it is wrong, or None.
        below: the value under which it is wrong, or None.
        periods: how many periods of the metric it must be so in a row.
        silence_is_wrong: whether it is wrong, too, that the metric has no data.
    """

    name: str
    says: str
    metric: cloudwatch.IMetric
    above: float | None = None
    below: float | None = None
    periods: int = 1
    silence_is_wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question to a log, saved for when it has to be asked.

    Attributes:
        name: its title, a folder deep under the stage's prefix.
        text: in the language of Logs Insights, a command a line.
        shown: whether the dashboard shows its answer, too.
    """

    name: str
    log_groups: Sequence[logs.ILogGroup]
    text: Sequence[str]
    shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All of a stack that is worth looking at.

    Attributes:
        title: heads its part of the dashboard.
        alarms: names of alarms that the stack has itself, since its own resources depend on them.
    """

    title: str
    graphs: Sequence[Graph]
    watches: Sequence[Watch] = ()
    queries: Sequence[Query] = ()
    alarms: Sequence[str] = ()


def told(says: str, name: str, alerts: Alerts) -> str:
    """An alarm's description: what is wrong, and where it stands what to do about it."""
    return f"{says}. Runbook: {alerts.runbooks}#{name}"


def labelled(
    namespace: str,
    name: str,
    dimensions: Mapping[str, str],
    statistic: str,
    label: str,
    period: cdk.Duration = FIVE_MINUTES,
) -> cloudwatch.Metric:
    """Return a metric as graphs and alarms take it."""
    return cloudwatch.Metric(
        namespace=namespace,
        metric_name=name,
        dimensions_map=dict(dimensions),
        statistic=statistic,
        label=label,
        period=period,
    )


def share(part: cloudwatch.Metric, whole: cloudwatch.Metric, label: str, at_least: int = 1) -> cloudwatch.MathExpression:
    """Return a part of a whole in percent; 0 where the whole is below `at_least`, where a few would be many percent."""
    return cloudwatch.MathExpression(
        expression=f"IF(whole >= {at_least}, 100 * FILL(part, 0) / whole, 0)",
        using_metrics={"part": part, "whole": whole},
        label=label,
        period=FIVE_MINUTES,
    )


def executions(stack: cdk.Stack, machine: str) -> list[cloudwatch.Metric]:
    """Return how many executions of a state machine succeeded, failed, ran out of time and were aborted.

    Args:
        machine: its name: its ARN, taken from the resource, would tie this stack to whichever shows the metrics.
    """
    arn = stack.format_arn(
        service="states", resource="stateMachine", resource_name=machine, arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
    )
    ends = {"Succeeded": "succeeded", "Failed": "failed", "TimedOut": "out of time", "Aborted": "aborted"}
    return [labelled("AWS/States", f"Executions{end}", {"StateMachineArn": arn}, "Sum", label) for end, label in ends.items()]


def failure_watch(name: str, says: str, metrics: Sequence[cloudwatch.Metric]) -> Watch:
    """Return a watch that no execution of a state machine, of `executions`, fails or runs out of time."""
    _, failed, timed_out, _ = metrics  # who aborts one by hand need not be told
    unsuccessful = cloudwatch.MathExpression(
        expression="FILL(failed, 0) + FILL(timed_out, 0)",
        using_metrics={"failed": failed, "timed_out": timed_out},
        label="failed",
        period=FIVE_MINUTES,
    )
    return Watch(name=name, says=says, metric=unsuccessful, above=0)
