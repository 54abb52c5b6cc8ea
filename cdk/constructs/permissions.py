"""What SageMaker containers may do."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk.constructs.data_access import allow_objects
from cdk.stacks.data import DataStack


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


def job_roles(scope: Construct, data: DataStack) -> tuple[iam.Role, iam.Role]:
    """The roles of the training job and of the processing jobs."""

    def role(name: str, read: list[str], write: list[str]) -> iam.Role:
        result = iam.Role(scope, name, assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        allow_objects(result, data, read=read, write=write)
        return result

    training = role("TrainingRole", ["runs/", "models/"], ["runs/", "models/"])
    processing = role("ProcessingRole", ["runs/", "models/"], ["runs/", "models/*/evaluation/"])
    return training, processing
