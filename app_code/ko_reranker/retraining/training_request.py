"""The training job of a run, as CreateTrainingJob takes it: what the state machine sends, and a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ko_reranker.retraining.run import Run

# What the training loop prints, as metrics in SageMaker's console.
METRIC_DEFINITIONS = [
    *(
        {"Name": f"train:{name}", "Regex": rf"\b{name}=([-+0-9.eE]+)"}
        for name in ("loss", "learning_rate", "epoch", "gradient_norm", "queries_per_second", "tokens_per_second")
    ),
    *({"Name": f"dev:{name}", "Regex": rf"\bdev_{name}=([-+0-9.eE]+)"} for name in ("loss", "mrr")),
]
# All that a request has but the job's name, of which each start needs a new one.
FIELDS = (
    "RoleArn",
    "AlgorithmSpecification",
    "HyperParameters",
    "InputDataConfig",
    "OutputDataConfig",
    "CheckpointConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableManagedSpotTraining",
    "EnableInterContainerTrafficEncryption",
)


@dataclass(frozen=True, slots=True)
class TrainingPlace:
    """Where a stage trains.

    Attributes:
        image: the URI of the container image.
        role_arn: what the job may do.
        bucket: the data bucket.
        key_arn: what encrypts the model.
        volume_gb: of each instance's disk.
        vpc: ``Subnets`` and ``SecurityGroupIds``, as SageMaker takes them; None for a network of SageMaker's own.
    """

    image: str
    role_arn: str
    bucket: str
    key_arn: str
    volume_gb: int
    vpc: Mapping[str, Sequence[str]] | None = None


def training_request(run: Run, place: TrainingPlace, *, data: str | None = None) -> dict[str, Any]:
    """Return the request of a run's training job: ``FIELDS``, and ``VpcConfig`` in a VPC; all but ``TrainingJobName``.

    Args:
        data: the ``s3://`` prefix with ``train.jsonl``; None for what the run itself joins, or mines.
    """
    data = data or f"s3://{place.bucket}/{run.prefix}/{'mined' if run.mine_negatives else 'dataset'}/"
    return {
        "RoleArn": place.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": place.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": METRIC_DEFINITIONS,
        },
        "HyperParameters": dict(run.hyperparameters),
        "InputDataConfig": [
            {
                "ChannelName": "dataset",
                "InputMode": "File",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3DataDistributionType": "FullyReplicated",
                        "S3Uri": data,
                    }
                },
            }
        ],
        "OutputDataConfig": {
            "S3OutputPath": f"s3://{place.bucket}/models/{run.name}/",
            "KmsKeyId": place.key_arn,
            # A field of CreateTrainingJob like any other: the optimised integration takes that API's request as documented, and
            # lists no exceptions (https://docs.aws.amazon.com/step-functions/latest/dg/connect-sagemaker.html).
            "CompressionType": "NONE",
        },
        # Attempts share the checkpoints: what one has learned the next goes on from.
        "CheckpointConfig": {"S3Uri": f"s3://{place.bucket}/{run.prefix}/checkpoints/", "LocalPath": "/opt/ml/checkpoints"},
        # No VolumeKmsKeyId: GPU instances with local NVMe storage, which is encrypted by hardware, refuse it.
        "ResourceConfig": {
            "InstanceType": run.instance_type,
            "InstanceCount": run.instance_count,
            "VolumeSizeInGB": place.volume_gb,
        },
        "StoppingCondition": dict(run.stopping_condition),
        "EnableManagedSpotTraining": run.use_spot,
        "EnableInterContainerTrafficEncryption": True,
        **({"VpcConfig": dict(place.vpc)} if place.vpc else {}),
    }
