"""Train from a notebook with the SageMaker Python SDK (extra `sagemaker`): the very job that the state machine starts.

    from ko_reranker import notebook

    job = notebook.train("dev", "20260101-120000-ab12", hyperparameters={"epochs": 2})
    job.model_artifacts.s3_model_artifacts

One function makes the request of both, the deployed one of the state machine's first state. The SDK's `ModelTrainer` writes a
request of its own, and wants a role with more rights than a training job needs; `TrainingJob` sends this one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

if TYPE_CHECKING:
    from sagemaker.core.resources import TrainingJob


def train(
    stage: str,
    data: str,
    *,
    name: str | None = None,
    recipe: str | None = None,
    base_model: str | None = None,
    hyperparameters: Mapping[str, object] | None = None,
    instance_type: str | None = None,
    instance_count: int | None = None,
    use_spot: bool | None = None,
    follow: bool = True,
    project: Path | None = None,
) -> TrainingJob:
    """Start a training job of a stage and follow its log to its end.

    Fields that are left out are the stage's, as they are for the state machine.

    Args:
        stage: local, dev or prod. For local the process needs the local cloud's variables (`ko-reranker local env`).
        data: an earlier run, whose records are trained on again (the mined ones, if it mined); or an ``s3://`` prefix of the
            stage's data bucket with train.jsonl, below runs/ or models/, where the job may read.
        name: the run's name, under which checkpoints and model are kept; None makes one up from the time.
        hyperparameters: fields of the recipe that are to be others.
        follow: print the log until the job ends; without, only start it.
        project: a folder of the checkout; None starts looking in the working directory.

    Returns:
        The SDK's resource of the job, whose ``model_artifacts.s3_model_artifacts`` `ko-reranker models register` takes.

    Raises:
        OperationError: there is no such stage or data, a field is wrong, or the SDK isn't there.
    """
    target = Stage.connect(stage, Project.find(project))
    _check_environment(target)
    fields = {
        "recipe": recipe,
        "base_model": base_model,
        "hyperparameters": dict(hyperparameters) if hyperparameters is not None else None,
        "instance_type": instance_type,
        "instance_count": instance_count,
        "use_spot": use_spot,
    }
    name = name or f"notebook-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    given = {key: value for key, value in fields.items() if value is not None}
    return _start(target, training_request(target, data, name, given), follow)


def training_request(stage: Stage, data: str, name: str, fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the request of CreateTrainingJob that the stage's state machine would send for a run of this name.

    Args:
        data: as for `train`.
        fields: of the execution input.

    Raises:
        OperationError: naming the field or the data that is wrong.
    """
    event = {"input": fields, "execution": name, "data": _data_uri(stage, data)}
    function = stage.output("CheckInputFunction")
    answer = stage.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event).encode())
    run = json.loads(answer["Payload"].read())
    if "FunctionError" in answer:
        raise OperationError(run.get("errorMessage", "the input could not be checked"))
    return {"TrainingJobName": run["job_name"], **run["training_job"]}


def _data_uri(stage: Stage, data: str) -> str:
    if data.startswith("s3://"):
        return data.rstrip("/") + "/"
    bucket, s3 = stage.output("DataBucket"), stage.client("s3")
    for folder in ("mined", "dataset"):
        prefix = f"runs/{data}/{folder}/"
        if s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}train.jsonl", MaxKeys=1).get("Contents"):
            return f"s3://{bucket}/{prefix}"
    raise OperationError(
        f"the run {data!r} has no dataset under s3://{bucket}/runs/{data}/: name another run, or an s3:// prefix"
    )


def _check_environment(stage: Stage) -> None:
    """The SDK makes clients of its own, which look to the environment for the local cloud and its credentials."""
    if stage.name == "local" and os.environ.get("AWS_ENDPOINT_URL") != stage.client("s3").meta.endpoint_url:
        raise OperationError(
            'the SageMaker SDK finds the local cloud by its variables: first, in a shell, eval "$(ko-reranker local env)"'
        )


def _start(stage: Stage, request: Mapping[str, Any], follow: bool) -> TrainingJob:
    import boto3

    try:
        from sagemaker.core.resources import TrainingJob
        from sagemaker.core.utils.code_injection.codec import transform
        from sagemaker.core.utils.logs import CloudWatchLogsClient
    except ImportError:
        raise OperationError("the SageMaker SDK isn't installed: pip install 'ko-reranker[sagemaker]'") from None
    session = boto3.session.Session(region_name=stage.region)
    # What follows the log would make one of the default session, and find nothing when the stage lies in another region.
    CloudWatchLogsClient.client = stage.client("logs")
    job = TrainingJob.create(session=session, region=stage.region, **transform(request, "CreateTrainingJobRequest"))
    if follow:
        with _log_shown():
            job.wait(logs=True)
    return job


@contextlib.contextmanager
def _log_shown() -> Iterator[None]:
    """Show what the SDK logs while it waits, the job's own lines among it, unless the application sees to its log itself."""
    logger = logging.getLogger("sagemaker.core.resources")
    if logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
        yield
        return
    level, handler = logger.level, _ConsoleHandler(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _ConsoleHandler(logging.Handler):
    """Prints above the panel that the SDK keeps up to date on the same console, without cutting lines."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        # The SDK says of a line that it is the job's by switching markup off.
        get_console().print(record.getMessage(), markup=getattr(record, "markup", True), highlight=False, soft_wrap=True)
