"""SageMaker jobs as the state machine starts them, request by request as the API documents it.

The CDK's own training task lacks spot instances, checkpoints and uncompressed artefacts, and it has no processing task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ko_reranker.retraining.training_request import FIELDS

# Each start of a job needs a name of its own: a redriven execution or a retried state may not take the old one.
_ATTEMPT = "$$.Execution.RedriveCount, $$.State.RetryCount"


class Expression(str):
    """What the states language is to evaluate when a state runs: a path or an intrinsic function."""

    __slots__ = ()


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as SageMaker's requests have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def training_job(tags: Mapping[str, str], *, in_vpc: bool) -> dict[str, Any]:
    """Parameters of ``createTrainingJob``: the request that the first state made, under a name for each attempt."""
    fields = (*FIELDS, *(["VpcConfig"] if in_vpc else []))
    return {
        "Tags": tag_list(tags),
        "TrainingJobName.$": f"States.Format('{{}}-{{}}-{{}}', $.request.job_name, {_ATTEMPT})",
        **{f"{field}.$": f"$.request.training_job.{field}" for field in fields},
    }


def processing_job(
    *,
    command: str,
    options: Mapping[str, object],
    image: str,
    role_arn: str,
    bucket: str,
    key_arn: str,
    input_uri: str,
    output: str,
    output_prefix: str,
    instance_type: str,
    volume_gb: int,
    max_hours: float,
    tags: Mapping[str, str],
    vpc: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Parameters of ``createProcessingJob`` for one of the image's commands; reads ``$.request``.

    Args:
        command: ``mine`` or ``evaluate``.
        options: of the command, by their Python names; one that is None is left to it.
        input_uri: the path of the dataset's S3 URI.
        output: what the results are; the folder they go to.
        output_prefix: an intrinsic function that gives the prefix of that folder in the bucket.
        vpc: where it runs, as SageMaker's ``VpcConfig``; None for a network of SageMaker's own.
    """
    return {
        # SageMaker's 63 characters leave nine after a run's longest name.
        "ProcessingJobName.$": f"States.Format('{{}}-{command[:4]}-{{}}-{{}}', $.request.job_name, {_ATTEMPT})",
        "RoleArn": role_arn,
        "AppSpecification": {
            "ImageUri": image,
            "ContainerEntrypoint": ["ko-reranker", command],
            "ContainerArguments.$": _arguments(options),
        },
        "ProcessingInputs": [_dataset(input_uri)],
        "ProcessingOutputConfig": {
            "KmsKeyId": key_arn,
            "Outputs": [_results(output, f"States.Format('s3://{bucket}/{{}}/{output}/', {output_prefix})")],
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": instance_type, "VolumeSizeInGB": volume_gb}
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": int(max_hours * 3600)},
        "Tags": tag_list(tags),
        **({"NetworkConfig": {"VpcConfig": vpc}} if vpc else {}),
    }


def _dataset(uri: str) -> dict[str, Any]:
    return {
        "InputName": "dataset",
        "S3Input": {
            "S3Uri.$": uri,
            "LocalPath": "/opt/ml/processing/input/dataset",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "FullyReplicated",
        },
    }


def _results(name: str, uri: str) -> dict[str, Any]:
    return {
        "OutputName": name,
        "S3Output": {"S3Uri.$": uri, "LocalPath": "/opt/ml/processing/output", "S3UploadMode": "EndOfJob"},
    }


def _arguments(options: Mapping[str, object]) -> str:
    """An intrinsic function that gives a command's options as a list of strings."""
    items: list[str] = []
    for name, value in options.items():
        if value is not None:
            items += [_literal(f"--{name.replace('_', '-')}"), value if isinstance(value, Expression) else _literal(str(value))]
    return f"States.Array({', '.join(items)})"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
