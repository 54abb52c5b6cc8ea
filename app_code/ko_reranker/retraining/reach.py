"""Which models a job can get hold of where its network ends at AWS."""

from __future__ import annotations

_ELSEWHERE = ("s3://", "sample:", "/", ".", "~")


def unreachable(model: str) -> str | None:
    """Why a model can't be had without the internet, or None.

    Args:
        model: an S3 URI, a sample, a path in the image, or a hub id.
    """
    if model.startswith(_ELSEWHERE):
        return None
    return (
        f"is {model}, an id of the Hugging Face hub, which jobs in a VPC without egress can't reach: copy the model's folder "
        "to s3://{data_bucket}/models/ and name it by that address, or set network.egress"
    )
