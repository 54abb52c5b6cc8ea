"""What SageMaker containers may do."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk.constructs.permissions import NO_RESOURCE, allow
from cdk.constructs.stores import DataBucket


def allow_job_basics(role: iam.Role) -> None:
    """Let a container write its log and its metrics."""
    log_groups = cdk.Stack.of(role).format_arn(
        service="logs", resource="log-group", resource_name="/aws/sagemaker/*", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
    )
    allow(
        role,
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "logs:DescribeLogStreams",
        on=[log_groups],
        because="SageMaker names its log groups and streams when it starts them.",
    )
    allow(
        role,
        "cloudwatch:PutMetricData",
        on=["*"],
        conditions={"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "aws/sagemaker/*"]}},
        because=f"{NO_RESOURCE} PutMetricData is bounded by namespace.",
    )


def job_roles(scope: Construct, bucket: DataBucket) -> tuple[iam.Role, iam.Role]:
    """The roles of the training job and of the processing jobs."""

    def role(name: str, read: list[str], write: list[str]) -> iam.Role:
        result = iam.Role(scope, name, assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        bucket.grant_objects(result, read=read, write=write)
        # For the KmsKeyId of a job's output "the execution role must include permissions to call kms:Encrypt".
        # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_OutputDataConfig.html
        bucket.key.grant(result, "Encrypt")
        return result

    training = role("TrainingRole", ["runs/", "models/"], ["runs/", "models/"])
    processing = role("ProcessingRole", ["runs/", "models/"], ["runs/", "models/*/evaluation/"])
    return training, processing
