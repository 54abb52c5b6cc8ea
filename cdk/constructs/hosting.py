"""How the endpoint hosts a model: one description, read by CloudFormation's resources and by the deploy state machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam

from cdk.constructs.permissions import allow
from cdk.constructs.stores import CAPTURED, DataBucket
from ko_reranker.settings import Serving, Settings

# One name for ever: scaling policies, alarms and clients refer to it.
VARIANT = "main"


def container(settings: Settings, image: str, data: str) -> dict[str, Any]:
    """The container of ``CreateModel``.

    Args:
        image, data: literals, or paths (``$.…``) of a state machine's data.
    """
    source = {**_value("S3Uri", data), "S3DataType": "S3Prefix", "CompressionType": "None"}
    return {**_value("Image", image), "ModelDataSource": {"S3DataSource": source}, "Environment": settings.server_environment}


def network_of(settings: Settings, vpc: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    """Where the container of ``CreateModel`` runs and what it may call."""
    isolated = {"EnableNetworkIsolation": True} if settings.network.isolate_endpoint else {}
    return {**isolated, **({"VpcConfig": vpc} if vpc else {})}


def data_capture(settings: Settings, bucket: DataBucket) -> dict[str, Any]:
    """The ``DataCaptureConfig`` of ``CreateEndpointConfig``, where calls are stored; else nothing."""
    if not settings.recording.capture_percent:
        return {}
    return {
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": settings.recording.capture_percent,
            "DestinationS3Uri": f"s3://{bucket.name}/{CAPTURED}",
            "KmsKeyId": bucket.key.arn,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            # As text; of other types SageMaker writes base64.
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        }
    }


def production_variant(serving: Serving) -> dict[str, Any]:
    """The variant of ``CreateEndpointConfig``, less the model's name."""
    return {
        "VariantName": VARIANT,
        "InstanceType": serving.instance_type,
        "InitialInstanceCount": serving.min_instances,
        "InitialVariantWeight": 1,
        # The image holds CUDA 13; SageMaker's default host has a driver too old for it.
        **({"InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1"} if _has_gpu(serving.instance_type) else {}),
        "ContainerStartupHealthCheckTimeoutInSeconds": serving.startup_timeout_seconds,
        "ModelDataDownloadTimeoutInSeconds": serving.startup_timeout_seconds,
    }


def _has_gpu(instance_type: str) -> bool:
    return instance_type.split(".")[1][0] in "gp"


def alarm_names(settings: Settings) -> list[str]:
    """The alarms that roll an update back."""
    return [f"{settings.prefix}-endpoint-errors", f"{settings.prefix}-endpoint-latency"]


# What "no instance reports" is called: the alarm of whoever shows it, which is quiet while the endpoint is away.
SILENT = "endpoint-silent"
# Of autoscaling: concurrent requests are published every ten seconds, so that a burst is met within a minute; the invocation
# count takes several.
SCALED_BY = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
SCALE_IN_COOLDOWN, SCALE_OUT_COOLDOWN = cdk.Duration.minutes(10), cdk.Duration.minutes(2)


def scalable_target(prefix: str) -> dict[str, str]:
    """What autoscaling knows the endpoint's instances by."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{prefix}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def target_tracking(serving: Serving) -> dict[str, Any]:
    """The ``TargetTrackingScalingPolicyConfiguration`` of ``PutScalingPolicy``."""
    return {
        "TargetValue": serving.concurrent_requests_per_instance,
        "PredefinedMetricSpecification": {"PredefinedMetricType": SCALED_BY},
        "ScaleInCooldown": SCALE_IN_COOLDOWN.to_seconds(),
        "ScaleOutCooldown": SCALE_OUT_COOLDOWN.to_seconds(),
    }


def rollout(settings: Settings) -> dict[str, Any]:
    """The ``DeploymentConfig`` of an update: one instance first, back again when an alarm goes off."""
    if not settings.serving.canary:
        return {}
    return {
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
                    "WaitIntervalInSeconds": 300,
                },
                "TerminationWaitInSeconds": 120,
                "MaximumExecutionTimeoutInSeconds": 3600,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarm_names(settings)]},
        }
    }


def allow_rollback_alarms(role: iam.Role, settings: Settings) -> None:
    """Let a role look at the alarms of an update that they can roll back: the endpoint's, and whoever updates it.

    https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html
    """
    watched = rollout(settings).get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {}).get("Alarms", ())
    if watched:
        arns = [
            cdk.Stack.of(role).format_arn(
                service="cloudwatch",
                resource="alarm",
                resource_name=alarm["AlarmName"],
                arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
            )
            for alarm in watched
        ]
        allow(role, "cloudwatch:DescribeAlarms", on=arns)


def _value(key: str, value: str) -> dict[str, str]:
    return {f"{key}.$": value} if value.startswith("$.") else {key: value}
