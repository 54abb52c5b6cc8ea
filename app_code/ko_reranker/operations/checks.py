"""What has to be so before a stage is deployed, checked one by one, each finding with what to do."""

from __future__ import annotations

import json
import math
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from ko_reranker.operations import local, node, synthesis
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import EDGE_REGION, Stage

if TYPE_CHECKING:
    from ko_reranker.settings import Settings

Level = Literal["ok", "warning", "error"]
# The bootstrap version that the CDK's newer stacks ask for.
_BOOTSTRAP_VERSION = 6
# Lambda's quota "Concurrent executions".
_CONCURRENCY_QUOTA = "L-B99A9384"
_BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its level, what was checked, and what was found or is to be done."""

    level: Level
    subject: str
    message: str


def check(stage_name: str, project: Project) -> Iterator[Finding]:
    """Yield the findings of a stage, those that the others depend on first."""
    yield _python()
    yield _node(project)
    try:
        settings = project.settings(stage_name)
    except OperationError as error:
        yield Finding("error", "settings", f"{error}")
        return
    yield Finding("ok", "settings", f"stage {stage_name} of cdk.json is valid, region {settings.region}")
    if stage_name == "local":
        try:
            yield from _ports()
        except OperationError as error:
            yield Finding("error", "local cloud", str(error))
        return
    try:
        stage = Stage.connect(stage_name, project)
        identity = stage.client("sts").get_caller_identity()
    except (OperationError, ClientError, BotoCoreError) as error:
        yield Finding("error", "credentials", f"{error}")
        return
    yield Finding("ok", "credentials", f"{identity['Arn']} in account {identity['Account']}")
    regions = [stage.region, *([EDGE_REGION] if settings.api.rate_rule_at_cloudfront else [])]
    for region in regions:
        subject = "bootstrap" if region == stage.region else f"bootstrap of {region}"
        yield _guarded(subject, partial(_bootstrap, stage, identity["Account"], region, subject))
    yield from _quotas(stage, settings)
    yield _guarded("Lambda concurrency", lambda: _concurrency(stage, settings))
    yield from _definitions(stage, project)
    yield _guarded("image", lambda: _image(stage, settings))
    yield _guarded("base model", lambda: _base_model(stage, settings))
    yield _guarded("live model", lambda: _live_model(stage, settings))
    yield _guarded("alarms", lambda: _subscribers(stage, settings))


def _guarded(subject: str, look: Callable[[], Finding]) -> Finding:
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
        node.check(project.root)
    except OperationError as error:
        return Finding("error", "Node.js", str(error))
    return Finding("ok", "Node.js", "and the CDK command line are there")


def _ports() -> Iterator[Finding]:
    for option, port in local.ports().items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if taken:
            yield Finding(
                "warning", f"port {port}", f"is in use, by the local cloud or another program: {option} takes another"
            )
        else:
            yield Finding("ok", f"port {port}", "is free")


def _bootstrap(stage: Stage, account: str, region: str, subject: str) -> Finding:
    command = f"npx cdk bootstrap aws://{account}/{region}"
    ssm = stage.in_region("ssm", region)
    try:
        version = int(ssm.get_parameter(Name=_BOOTSTRAP_PARAMETER)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        return Finding("error", subject, f"{region} is not bootstrapped for the CDK: run `{command}`")
    if version < _BOOTSTRAP_VERSION:
        return Finding("error", subject, f"version {version} is too old: run `{command}` again")
    return Finding("ok", subject, f"version {version}")


def _quotas(stage: Stage, settings: Settings) -> Iterator[Finding]:
    training, serving = settings.training, settings.serving
    kind = "spot training job" if training.use_spot else "training job"
    wanted = {
        f"{training.instance_type} for {kind} usage": training.instance_count,
        f"{settings.evaluation.instance_type} for processing job usage": 1,
        # A blue/green update runs the new instances beside all that are there, which may be as many as autoscaling takes.
        f"{serving.instance_type} for endpoint usage": 2 * serving.max_instances,
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


def _concurrency(stage: Stage, settings: Settings) -> Finding:
    """Look whether one account's functions may run side by side as often as a busy stage needs; new accounts have 10."""
    limit = stage.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    serving = settings.serving
    # A request at the endpoint is a rerank function at work; the authorizer runs beside it for an instant.
    calls = math.ceil(serving.max_instances * serving.concurrent_requests_per_instance)
    wanted = settings.translation.max_concurrency + 2 * calls
    if limit >= wanted:
        return Finding("ok", "Lambda concurrency", f"{limit}")
    return Finding(
        "error",
        "Lambda concurrency",
        f"the account runs {limit} functions at a time, and {wanted} are needed ({settings.translation.max_concurrency} shards "
        f"of a translation, {calls} requests at the endpoint and their authorizers): request it: aws service-quotas "
        f"request-service-quota-increase --region {stage.region} --service-code lambda --quota-code {_CONCURRENCY_QUOTA} "
        "--desired-value 1000",
    )


def _definitions(stage: Stage, project: Project) -> Iterator[Finding]:
    """Let Step Functions itself check both state machines, as synthesised with the endpoint, which is most of the deploy's."""
    try:
        templates = synthesis.synthesise(project, stage.name, {"serving.enabled": "true"})
    except OperationError as error:
        yield Finding("error", "state machines", str(error))
        return
    for name, definition in synthesis.state_machines(templates).items():
        yield _guarded(f"state machine {name}", partial(_definition, stage, name, definition))


def _definition(stage: Stage, name: str, definition: dict[str, Any]) -> Finding:
    answer = stage.client("stepfunctions").validate_state_machine_definition(
        definition=json.dumps(definition, ensure_ascii=False), type="STANDARD", severity="ERROR"
    )
    if answer["result"] == "OK":
        return Finding("ok", f"state machine {name}", "Step Functions accepts its definition")
    said = "; ".join(f"{item.get('location', '')} {item['message']}".strip() for item in answer["diagnostics"][:5])
    return Finding("error", f"state machine {name}", f"Step Functions refuses its definition: {said}")


def _image(stage: Stage, settings: Settings) -> Finding:
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


def _base_model(stage: Stage, settings: Settings) -> Finding:
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


def _live_model(stage: Stage, settings: Settings) -> Finding:
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


def _subscribers(stage: Stage, settings: Settings) -> Finding:
    subject, email = "alarms", settings.alerts.email
    unheard: Level = "warning" if stage.name == "prod" else "ok"
    try:
        topic = stage.output("TopicArn")
    except OperationError:  # not deployed yet
        if email:
            return Finding("ok", subject, f"{email} will be asked to confirm that alarms may be sent there")
        return Finding(unheard, subject, "nobody will hear of alarms: set alerts.email, or subscribe to its topic")
    found = stage.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    confirmed = [item["Endpoint"] for item in found if item["SubscriptionArn"].startswith("arn:")]
    if confirmed:
        return Finding("ok", subject, f"{len(confirmed)} hear of alarms: {', '.join(confirmed)}")
    if found:
        waiting = ", ".join(item["Endpoint"] for item in found)
        return Finding(unheard, subject, f"nobody hears of alarms: {waiting} has not confirmed it by mail yet")
    return Finding(unheard, subject, f"nobody hears of alarms: set alerts.email, or subscribe to {topic}")
