"""The services that functions and jobs call, by the names of their VPC endpoints.

What SageMaker does around a container (pulling its image, writing its log) goes through networks of its own; data and models
come through the VPC, from S3.
"""

from __future__ import annotations

GATEWAYS = ("dynamodb", "s3")
INTERFACES = ("cloudformation", "logs", "sagemaker.api", "sagemaker.runtime", "ssm", "states", "translate")


def called_services() -> set[str]:
    """All of them."""
    return {*GATEWAYS, *INTERFACES}
