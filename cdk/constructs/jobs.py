"""SageMaker jobs as the state machine starts them, request by request as the API documents it.

The CDK's own training task lacks spot instances, checkpoints and uncompressed artefacts, and it has no processing task.
"""

from __future__ import annotations

from typing import Any

# What the training loop prints, as metrics in SageMaker's console.
METRIC_DEFINITIONS = [
    *(
        {"Name": f"train:{name}", "Regex": rf"\b{name}=([-+0-9.eE]+)"}
        for name in ("loss", "learning_rate", "epoch", "gradient_norm", "queries_per_second", "tokens_per_second")
    ),
    *({"Name": f"dev:{name}", "Regex": rf"\bdev_{name}=([-+0-9.eE]+)"} for name in ("loss", "mrr")),
]

# Each start of a job needs a name of its own: a redriven execution or a retried state may not take the old one.
_ATTEMPT = "$$.Execution.RedriveCount, $$.State.RetryCount"


def training_job(*, image: str, role_arn: str, bucket: str, key_arn: str, volume_gb: int) -> dict[str, Any]:
    """Parameters of ``createTrainingJob``; reads ``$.request`` and ``$.training_data``."""
    return {
        "TrainingJobName.$": f"States.Format('{{}}-{{}}-{{}}', $.request.job_name, {_ATTEMPT})",
        "RoleArn": role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": METRIC_DEFINITIONS,
        },
        "HyperParameters.$": "$.request.hyperparameters",
        "InputDataConfig": [
            {
                "ChannelName": "dataset",
                "InputMode": "File",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3DataDistributionType": "FullyReplicated",
                        "S3Uri.$": "$.training_data.uri",
                    }
                },
            }
        ],
        "OutputDataConfig": {
            "S3OutputPath.$": f"States.Format('s3://{bucket}/models/{{}}/', $.request.run)",
            "KmsKeyId": key_arn,
            "CompressionType": "NONE",
        },
        # Attempts share the checkpoints: what one has learned the next goes on from.
        "CheckpointConfig": {
            "S3Uri.$": f"States.Format('s3://{bucket}/{{}}/checkpoints/', $.request.prefix)",
            "LocalPath": "/opt/ml/checkpoints",
        },
        # No VolumeKmsKeyId: GPU instances with local NVMe storage, which is encrypted by hardware, refuse it.
        "ResourceConfig": {
            "InstanceType.$": "$.request.instance_type",
            "InstanceCount.$": "$.request.instance_count",
            "VolumeSizeInGB": volume_gb,
        },
        "StoppingCondition.$": "$.request.stopping_condition",
        "EnableManagedSpotTraining.$": "$.request.use_spot",
        "EnableInterContainerTrafficEncryption": True,
    }


def processing_job(
    *,
    command: str,
    arguments: str,
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
) -> dict[str, Any]:
    """Parameters of ``createProcessingJob`` for one of the image's commands; reads ``$.request``.

    Args:
        command: ``mine`` or ``evaluate``.
        arguments: an intrinsic function that gives the command's arguments, a list of strings.
        input_uri: the path of the dataset's S3 URI.
        output: what the results are; the folder they go to.
        output_prefix: an intrinsic function that gives the prefix of that folder in the bucket.
    """
    return {
        # SageMaker's 63 characters leave nine after a run's longest name.
        "ProcessingJobName.$": f"States.Format('{{}}-{command[:4]}-{{}}-{{}}', $.request.job_name, {_ATTEMPT})",
        "RoleArn": role_arn,
        "AppSpecification": {
            "ImageUri": image,
            "ContainerEntrypoint": ["ko-reranker", command],
            "ContainerArguments.$": arguments,
        },
        "ProcessingInputs": [
            {
                "InputName": "dataset",
                "S3Input": {
                    "S3Uri.$": input_uri,
                    "LocalPath": "/opt/ml/processing/input/dataset",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                    "S3DataDistributionType": "FullyReplicated",
                },
            }
        ],
        "ProcessingOutputConfig": {
            "KmsKeyId": key_arn,
            "Outputs": [
                {
                    "OutputName": output,
                    "S3Output": {
                        "S3Uri.$": f"States.Format('s3://{bucket}/{{}}/{output}/', {output_prefix})",
                        "LocalPath": "/opt/ml/processing/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ],
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": instance_type, "VolumeSizeInGB": volume_gb}
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": int(max_hours * 3600)},
    }
