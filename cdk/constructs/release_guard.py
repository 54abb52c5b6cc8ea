"""A custom resource before the endpoint, which lets no deploy past while a release is under way or the endpoint away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aws_cdk as cdk
from constructs import Construct

from cdk.constructs.permissions import OWN_NAMES
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.release_lock import LOCK_ID, release_executions
from cdk.constructs.stores import RecordTable
from ko_reranker.settings import Settings

# Between two readings of the lock, at most: all of them fit into the function's time.
_LONGEST_POLL_SECONDS = 15


class ReleaseGuard(Construct):
    """Reads the release lock before CloudFormation updates the endpoint, and fails the deploy while a release holds it.

    It fails it, too, while there is no endpoint: CloudFormation couldn't update what was taken away, nor its autoscaling.

    CloudFormation calls a custom resource when one of its properties changes. With what the endpoint is made of as properties
    that is in every deploy which is going to update the endpoint, and in no other. The endpoint has to depend on `resource`.

    Args:
        endpoint: its name.
        guarded: the properties of the endpoint and its autoscaling that a deploy may change.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        releases: RecordTable,
        endpoint: str,
        guarded: Mapping[str, Any],
    ) -> None:
        super().__init__(scope, construct_id)
        poll_seconds = min(settings.release.poll_seconds, _LONGEST_POLL_SECONDS)
        function = PythonFunction(
            self,
            "Look",
            folder="release_guard",
            library=("custom_resource",),
            timeout=cdk.Duration.minutes(2),
            environment={
                "TABLE": releases.name,
                "LOCK_ID": LOCK_ID,
                "POLL_SECONDS": str(poll_seconds),
                "ENDPOINT_NAME": endpoint,
            },
        )
        releases.grant(function.role, "GetItem")
        function.allow("states:DescribeExecution", on=[release_executions(self, settings)], because=OWN_NAMES)
        there = cdk.Stack.of(self).format_arn(service="sagemaker", resource="endpoint", resource_name=endpoint)
        function.allow("sagemaker:DescribeEndpoint", on=[there])
        function.allow("cloudformation:DescribeStacks", on=[cdk.Stack.of(self).stack_id])
        self.resource = cdk.CustomResource(
            self,
            "Resource",
            service_token=function.function.function_arn,
            resource_type="Custom::ReleaseGuard",
            properties=guarded,
            service_timeout=cdk.Duration.minutes(3),
        )
        # The function must be allowed to before it is asked to.
        self.resource.node.add_dependency(function.role)
