"""What has to be so before a stage is deployed, checked one by one, each finding with what to do."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from ko_reranker.operations import deploying
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

Level = Literal["ok", "warning", "error"]
# The bootstrap version that the CDK's newer stacks ask for.
_BOOTSTRAP_VERSION = 6
_BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its level, what was checked, and what was found or is to be done."""

    level: Level
    subject: str
    message: str


def check(stage_name: str, project: Project) -> Iterator[Finding]:
    """Yield the findings of a stage, those that the others depend on first.

    Raises:
        OperationError: for an unknown stage.
    """
    yield _python()
    yield _node(project)
    settings, finding = _settings(stage_name, project)
    yield finding
    if settings is None:
        return
    if stage_name == "local":
        yield from _ports()
        return
    try:
        stage = Stage.connect(stage_name, project)
        identity = stage.client("sts").get_caller_identity()
    except (OperationError, ClientError, BotoCoreError) as error:
        yield Finding("error", "credentials", f"{error}")
        return
    yield Finding("ok", "credentials", f"{identity['Arn']} in account {identity['Account']}")
    yield _guarded("bootstrap", lambda: _bootstrap(stage, identity["Account"]))
    yield from _quotas(stage, settings)
    yield _guarded("image", lambda: _image(stage, settings))
    yield _guarded("base model", lambda: _base_model(stage, settings))
    yield _guarded("live model", lambda: _live_model(stage, settings))


def _guarded(subject: str, look: Any) -> Finding:
    try:
        return look()
    except (ClientError, BotoCoreError, OperationError) as error:
        return Finding("error", subject, f"{error}")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("error", "Python", f"{version}: 3.11 to 3.13 is needed")
    return Finding("ok", "Python", version)


def _node(project: Project) -> Finding:
    try:
        deploying.check_node(project.root)
    except OperationError as error:
        return Finding("error", "Node.js", str(error))
    return Finding("ok", "Node.js", "and the CDK command line are there")


def _settings(stage: str, project: Project) -> tuple[Any, Finding]:
    sys.path.insert(0, str(project.root))  # the CDK app is no installed package
    try:
        from cdk.settings import SettingsError, load_settings
    finally:
        sys.path.pop(0)
    try:
        settings = load_settings({**project.context, "stage": stage})
    except SettingsError as error:
        return None, Finding("error", "settings", str(error))
    return settings, Finding("ok", "settings", f"stage {stage} of cdk.json is valid, region {settings.region}")


def _ports() -> Iterator[Finding]:
    from ko_reranker.local.settings import DEFAULT_GATEWAY_PORT, DEFAULT_PORT

    for port, option in ((DEFAULT_PORT, "--port"), (DEFAULT_GATEWAY_PORT, "--gateway-port")):
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if taken:
            yield Finding(
                "warning", f"port {port}", f"is in use, by the local cloud or another program: {option} takes another"
            )
        else:
            yield Finding("ok", f"port {port}", "is free")


def _bootstrap(stage: Stage, account: str) -> Finding:
    command = f"npx cdk bootstrap aws://{account}/{stage.region}"
    ssm = stage.client("ssm")
    try:
        version = int(ssm.get_parameter(Name=_BOOTSTRAP_PARAMETER)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        return Finding("error", "bootstrap", f"{stage.region} is not bootstrapped for the CDK: run `{command}`")
    if version < _BOOTSTRAP_VERSION:
        return Finding("error", "bootstrap", f"version {version} is too old: run `{command}` again")
    return Finding("ok", "bootstrap", f"version {version}")


def _quotas(stage: Stage, settings: Any) -> Iterator[Finding]:
    training, serving = settings.training, settings.serving
    kind = "spot training job" if training.use_spot else "training job"
    wanted = {
        f"{training.instance_type} for {kind} usage": training.instance_count,
        f"{settings.evaluation.instance_type} for processing job usage": 1,
        f"{serving.instance_type} for endpoint usage": serving.max_instances,
    }
    try:
        pages = stage.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        found = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"] if quota["QuotaName"] in wanted}
    except (ClientError, BotoCoreError) as error:
        yield Finding("error", "quotas", f"{error}")
        return
    for name, count in wanted.items():
        quota = found.get(name)
        if quota is None:
            yield Finding("warning", name, f"the account lists no such quota: does {stage.region} offer the instance type?")
        elif quota["Value"] < count:
            yield Finding(
                "error",
                name,
                f"is {quota['Value']:g} and {count} are needed: request it, which takes a day or so: aws service-quotas "
                f"request-service-quota-increase --region {stage.region} --service-code sagemaker "
                f"--quota-code {quota['QuotaCode']} --desired-value {count}",
            )
        else:
            yield Finding("ok", name, f"{quota['Value']:g}")


def _image(stage: Stage, settings: Any) -> Finding:
    uri = settings.image.uri
    if not uri:
        return Finding("ok", "image", "built by CodeBuild from this folder during the deploy")
    found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([\w-]+)\.amazonaws\.com/([^:@]+)(?::([^@]+))?(?:@(sha256:\w+))?", uri)
    if not found:
        return Finding("warning", "image", f"{uri} isn't in Amazon ECR, and SageMaker pulls from there only")
    registry, _, repository, tag, digest = found.groups()
    ecr = stage.client("ecr")
    image = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    try:
        ecr.describe_images(registryId=registry, repositoryName=repository, imageIds=[image])
    except (ecr.exceptions.RepositoryNotFoundException, ecr.exceptions.ImageNotFoundException):
        return Finding("error", "image", f"{uri} doesn't exist: push it, or set image.uri to null to have it built")
    return Finding("ok", "image", uri)


def _base_model(stage: Stage, settings: Any) -> Finding:
    model = settings.training.base_model
    if model.startswith("s3://"):
        if "{data_bucket}" in model:
            model = model.replace("{data_bucket}", stage.output("DataBucket"))
        bucket, _, prefix = model.removeprefix("s3://").partition("/")
        count = stage.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]
        return Finding("ok", "base model", model) if count else Finding("error", "base model", f"nothing lies under {model}")
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model, timeout=10)
    except Exception as error:  # its errors share no ancestor with those of the HTTP client beneath
        return Finding("warning", "base model", f"{model} was not found on the Hugging Face hub ({type(error).__name__})")
    return Finding("ok", "base model", f"{model} on the Hugging Face hub")


def _live_model(stage: Stage, settings: Any) -> Finding:
    try:
        live = stage.live_model()
    except OperationError:
        live = None
    if live:
        return Finding("ok", "live model", live[0])
    if settings.serving.enabled:
        return Finding(
            "error",
            "live model",
            "serving.enabled is true and no model has been chosen: deploy with -c serving.enabled=false, then "
            f"`ko-reranker models register {settings.training.base_model} --stage {stage.name}`, then deploy again",
        )
    return Finding("ok", "live model", "none yet, and serving is off: the first deploy comes without an endpoint")
