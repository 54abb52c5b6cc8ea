"""Model packages: put a model into the registry, list what is there, approve one, go back to an earlier one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from ko_reranker.models import ModelNotFoundError, content_digest, hub_commit, pickled_weights, resolve_model
from ko_reranker.operations import executions
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

APPROVED = "Approved"


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A version in the registry.

    Attributes:
        arn: its ARN.
        version: its number, from 1.
        approval: Approved, PendingManualApproval or Rejected.
        description: for a trained one, the gate's sentence.
    """

    arn: str
    version: int
    approval: str
    description: str


def register(stage: Stage, model: str, *, approve: bool) -> str:
    """Put a model into the stage's bucket and registry and return the package's ARN.

    Args:
        model: a hub id, a folder, an S3 URI, or ``sample:tiny``.
        approve: approve it at once, which deploys it.

    Raises:
        OperationError: when there is no such model, or it is none that the endpoint could score with.
    """
    commit = None
    if (uri := _own(stage, model)) is None:
        folder = _resolved(model)
        uri, commit = _upload(stage, folder, model), hub_commit(folder)
    container = {
        "Image": stage.output("ImageUri"),
        "ModelDataSource": {"S3DataSource": {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}},
    }
    answer = stage.client("sagemaker").create_model_package(
        ModelPackageGroupName=stage.output("ModelPackageGroup"),
        ModelPackageDescription=f"{model}, registered by hand",
        ModelApprovalStatus=APPROVED if approve else "PendingManualApproval",
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        CustomerMetadataProperties={"source": model[:256], "golden": "none", **({"commit": commit} if commit else {})},
    )
    arn: str = answer["ModelPackageArn"]
    return arn


def _own(stage: Stage, model: str) -> str | None:
    """The S3 URI of a model that lies among the stage's own, where a training left it; None of any other."""
    bucket = stage.output("DataBucket")
    if not model.startswith(f"s3://{bucket}/models/"):
        return None
    uri = model.rstrip("/") + "/"
    key = uri.removeprefix(f"s3://{bucket}/") + "config.json"
    if not stage.client("s3").list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents"):
        raise OperationError(f"there is no model at {uri}: it has no config.json")
    return uri


def _resolved(model: str) -> Path:
    from ko_reranker.rankers import EngineOptions, RankerError, load_ranker

    try:
        folder = resolve_model(model)
        if pickles := pickled_weights(folder):
            raise OperationError(
                f"{model} has its weights in {pickles[0]}, a pickle, and an endpoint reads safetensors alone: save it so"
            )
        # As the endpoint would: a model that it could not start with is not put into the registry.
        load_ranker(folder, EngineOptions(device="cpu"), name=model).close()
    except (ModelNotFoundError, RankerError) as error:
        raise OperationError(str(error)) from None
    return folder


def _upload(stage: Stage, folder: Path, model: str) -> str:
    from ko_reranker.rankers.folders import GENERATIVE
    from ko_reranker.rankers.generative_folders import written_out
    from ko_reranker.rankers.loading import family_of

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # An endpoint's folder has no name that would tell the prompt of its model.
    beside = written_out(folder, model) if family_of(folder, model) == GENERATIVE else {}
    # The content is part of the key: what a release points to is never changed afterwards.
    digest = content_digest(folder, files)
    if beside:
        digest = hashlib.sha256(json.dumps([digest, beside]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")[-60:]
    prefix = f"models/base/{name}-{digest[:12]}/"
    bucket, s3 = stage.output("DataBucket"), stage.client("s3")
    for path in files:
        s3.upload_file(str(path), bucket, f"{prefix}{path.relative_to(folder).as_posix()}")
    for file, text in beside.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}{file}", Body=text.encode("utf-8"))
    return f"s3://{bucket}/{prefix}"


def packages(stage: Stage) -> Iterator[ModelPackage]:
    """Yield the registry's packages, the newest first."""
    pages = stage.client("sagemaker").get_paginator("list_model_packages")
    for page in pages.paginate(
        ModelPackageGroupName=stage.output("ModelPackageGroup"), SortBy="CreationTime", SortOrder="Descending"
    ):
        for item in page["ModelPackageSummaryList"]:
            yield ModelPackage(
                item["ModelPackageArn"],
                item.get("ModelPackageVersion", 0),
                item.get("ModelApprovalStatus", ""),
                item.get("ModelPackageDescription", ""),
            )


def find(stage: Stage, package: str) -> ModelPackage:
    """Return a package by its ARN or version number.

    Raises:
        OperationError: when there is no such package.
    """
    for item in packages(stage):
        if package in (item.arn, str(item.version)):
            return item
    raise OperationError(f"no model package {package!r} in the registry: see `ko-reranker models list --stage {stage.name}`")


def approve(stage: Stage, package: str) -> str:
    """Approve a package, by ARN or version number, and return its ARN; the deploy state machine starts by itself.

    Raises:
        OperationError: when there is no such package, or approving it again would start nothing.
    """
    item = find(stage, package)
    if item.approval == APPROVED:
        raise OperationError(
            f"{item.arn} is approved already, and approving it again starts nothing: make it live with "
            f"`ko-reranker models rollback {item.version} --stage {stage.name}`"
        )
    stage.client("sagemaker").update_model_package(ModelPackageArn=item.arn, ModelApprovalStatus=APPROVED)
    return item.arn


def rollback(stage: Stage, package: str | None = None) -> tuple[str, str]:
    """Start the deploy state machine with an approved package; return the package's ARN and the execution's.

    Args:
        package: its ARN or version number; None takes the one that was live before the one that is.

    Raises:
        OperationError: when there is no such package, or it can't be made live.
    """
    live = stage.live_model()
    item = find(stage, package or _live_before(stage, live[0] if live else None))
    if live and item.arn == live[0] and _running(stage) in (None, live[1]):
        raise OperationError(f"{item.arn} is live already: nothing to do")
    if item.approval != APPROVED:
        raise OperationError(
            f"{item.arn} is {item.approval}, and only an approved package is deployed: see `ko-reranker models approve`"
        )
    return item.arn, executions.start(stage, "DeployStateMachine", {"model_package": item.arn})


def _running(stage: Stage) -> str | None:
    """The model data that the endpoint serves, whatever the record says; None where that can't be told."""
    sagemaker = stage.client("sagemaker")
    try:
        config = sagemaker.describe_endpoint(EndpointName=stage.prefix)["EndpointConfigName"]
        [variant] = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
        container = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
        uri: str = container["ModelDataSource"]["S3DataSource"]["S3Uri"]
    except (ClientError, KeyError, ValueError):
        return None
    return uri


def _live_before(stage: Stage, live: str | None) -> str:
    """The package whose release ended well last, the live one's aside."""
    pages = stage.client("dynamodb").get_paginator("scan").paginate(TableName=stage.output("ReleasesTable"))
    released: list[tuple[str, str]] = [
        (item["at"]["S"], item["id"]["S"])
        for page in pages
        for item in page["Items"]
        if item.get("status", {}).get("S") in ("live", "recorded") and item["id"]["S"] != live
    ]
    if not released:
        raise OperationError("no other package has been live before: name one, by ARN or version number")
    return max(released)[1]
