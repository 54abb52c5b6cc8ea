"""A daily look at what nothing else takes away."""

from __future__ import annotations

import json
from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.constructs.permissions import NO_RESOURCE, OWN_NAMES
from cdk.constructs.python_function import PythonFunction
from ko_reranker.settings import Settings


class Housekeeping(Construct):
    """Gives logs that services name an end, and deletes what releases made long ago.

    Args:
        builds: log groups of image builds.
        undelivered: where the schedule's events go that the function does not take.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, builds: Sequence[str], undelivered: sqs.IQueue
    ) -> None:
        super().__init__(scope, construct_id)
        kinds = ("TrainingJobs", "ProcessingJobs", f"Endpoints/{settings.prefix}")
        groups = [*(f"/aws/sagemaker/{kind}" for kind in kinds), *builds]
        self._function = PythonFunction(
            self,
            "Do",
            folder="housekeeping",
            library=("cleanup", "data"),
            timeout=cdk.Duration.minutes(5),
            environment={
                "LOG_GROUPS": cdk.Stack.of(self).to_json_string(groups) if builds else json.dumps(groups),
                "LOG_DAYS": str(settings.data.service_log_days),
                "ENDPOINT_NAME": settings.prefix,
                "KEPT_DAYS": str(settings.release.kept_days),
            },
        )
        self._allow(groups, settings.prefix)
        events.Rule(
            self,
            "Daily",
            description="End old logs and old releases",
            schedule=events.Schedule.rate(cdk.Duration.days(1)),
            targets=[targets.LambdaFunction(self._function.function, dead_letter_queue=undelivered)],
        )

    def _allow(self, groups: Sequence[str], prefix: str) -> None:
        allow, stack = self._function.allow, cdk.Stack.of(self)

        def log_group(name: str) -> str:
            return stack.format_arn(
                service="logs", resource="log-group", resource_name=name, arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
            )

        def sagemaker(resource: str, name: str) -> str:
            return stack.format_arn(service="sagemaker", resource=resource, resource_name=name)

        allow("logs:DescribeLogGroups", on=["*"], because=NO_RESOURCE)
        # With and without: pages of the service have it both ways.
        arns = [log_group(f"{name}{end}") for name in groups for end in ("", ":*")]
        allow("logs:PutRetentionPolicy", on=arns, because="The ARN of a log group ends so, whatever its streams are called.")
        listing = ("ListModels", "ListEndpointConfigs", "ListEndpoints")
        allow(*(f"sagemaker:{verb}" for verb in listing), on=["*"], because=NO_RESOURCE)
        allow("sagemaker:DescribeEndpoint", on=[sagemaker("endpoint", prefix)])
        # The one that the endpoint runs may be CloudFormation's, of a name of its choice.
        configs = sagemaker("endpoint-config", "*")
        allow("sagemaker:DescribeEndpointConfig", on=[configs], because="The endpoint says at run time which one it runs.")
        allow("sagemaker:DeleteModel", on=[sagemaker("model", f"{prefix}-*")], because=OWN_NAMES)
        allow("sagemaker:DeleteEndpointConfig", on=[sagemaker("endpoint-config", f"{prefix}-*")], because=OWN_NAMES)
