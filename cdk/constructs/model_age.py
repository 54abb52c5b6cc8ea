"""How old the live model is, told daily: nothing in AWS counts it."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.constructs.live_model import LiveModel
from cdk.constructs.observed import labelled
from cdk.constructs.python_function import PythonFunction
from ko_reranker.settings import Settings


def model_age(scope: Construct, settings: Settings, live_model: LiveModel, undelivered: sqs.IQueue) -> cloudwatch.Metric:
    """Return the metric of the live model's age in days, written by a function of this scope.

    Args:
        undelivered: where the schedule's events go that the function does not take.
    """
    function = PythonFunction(
        scope,
        "ModelAge",
        folder="model_age",
        library=("data", "embedded_metrics"),
        environment={
            "LIVE_MODEL": live_model.name,
            "METRICS_NAMESPACE": settings.name,
            "ENDPOINT_NAME": settings.prefix,
        },
    )
    live_model.grant_read(function.role)
    packages = cdk.Stack.of(scope).format_arn(
        service="sagemaker", resource="model-package", resource_name=f"{settings.prefix}/*"
    )
    function.allow("sagemaker:DescribeModelPackage", on=[packages], because="A package's version is known once it is live.")
    events.Rule(
        scope,
        "Daily",
        description="Say how old the live model is",
        schedule=events.Schedule.rate(cdk.Duration.days(1)),
        targets=[targets.LambdaFunction(function.function, dead_letter_queue=undelivered)],
    )
    day = cdk.Duration.days(1)
    return labelled(settings.name, "model_age", {"endpoint": settings.prefix}, "Maximum", "days", day)
