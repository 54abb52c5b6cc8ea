"""What every SageMaker container may do besides its own work."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam


def allow_job_basics(role: iam.Role) -> None:
    """Let a container write its log and its metrics."""
    log_groups = cdk.Stack.of(role).format_arn(
        service="logs", resource="log-group", resource_name="/aws/sagemaker/*", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
    )
    role.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
            resources=[log_groups],
        )
    )
    role.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["cloudwatch:PutMetricData"],
            resources=["*"],  # this action knows no resources; the namespaces bound it
            conditions={"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "aws/sagemaker/*"]}},
        )
    )
