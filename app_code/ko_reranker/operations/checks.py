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
from ko_reranker.operations.called import called_services
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
# Who uses the data key beside the stage's roles, and for what.
_KEY_USERS = {
    "events.amazonaws.com": "notices of executions that stop",
    "cloudwatch.amazonaws.com": "alarms",
    "budgets.amazonaws.com": "the budget",
    "costalerts.amazonaws.com": "anomalies of the costs",
}


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
        yield _guarded(subject, partial(_bootstrap, stage, settings, identity["Account"], region, subject))
    if boundary := settings.identity.permissions_boundary:
        yield _guarded("permissions boundary", partial(_boundary, stage, boundary))
    if key := settings.data.key_arn:
        yield _guarded("data key", partial(_key, stage, settings, key))
    if settings.network.vpc == "existing":
        yield _guarded("network", partial(_network, stage, settings))
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


def _bootstrap(stage: Stage, settings: Settings, account: str, region: str, subject: str) -> Finding:
    qualifier = settings.identity.bootstrap_qualifier
    standard = qualifier == type(settings.identity)().bootstrap_qualifier
    command = f"npx cdk bootstrap {'' if standard else f'--qualifier {qualifier} '}aws://{account}/{region}"
    ssm = stage.in_region("ssm", region)
    try:
        version = int(ssm.get_parameter(Name=f"/cdk-bootstrap/{qualifier}/version")["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        under = "" if standard else f" under the qualifier {qualifier}"
        return Finding("error", subject, f"{region} is not bootstrapped for the CDK{under}: run `{command}`")
    if version < _BOOTSTRAP_VERSION:
        return Finding("error", subject, f"version {version} is too old: run `{command}` again")
    return Finding(
        "ok",
        subject,
        f"version {version}; the functions' code and the image's sources lie in its bucket, nothing in its image repository",
    )


def _boundary(stage: Stage, arn: str) -> Finding:
    iam = stage.client("iam")
    try:
        iam.get_policy(PolicyArn=arn)
    except iam.exceptions.NoSuchEntityException:
        return Finding("error", "permissions boundary", f"{arn} doesn't exist: no role could be made with it")
    return Finding("ok", "permissions boundary", arn)


def _key(stage: Stage, settings: Settings, arn: str) -> Finding:
    """Look whether a key that was given can do what the stage's own would."""
    kms, subject = stage.client("kms"), "data key"
    key = kms.describe_key(KeyId=arn)["KeyMetadata"]
    if not key["Enabled"] or key["KeySpec"] != "SYMMETRIC_DEFAULT" or key["KeyUsage"] != "ENCRYPT_DECRYPT":
        found = f"{key['KeyState']}, {key['KeySpec']}, {key['KeyUsage']}"
        return Finding("error", subject, f"{arn} is {found}: it must be enabled, SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT")
    policy = kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
    users = ("events.amazonaws.com", "cloudwatch.amazonaws.com", *settings.alerts.cost_publishers)
    missing = [f"{user} ({_KEY_USERS[user]})" for user in users if user not in policy]
    if missing:
        return Finding(
            "warning",
            subject,
            f"its policy doesn't name {', '.join(missing)}: without kms:Decrypt and kms:GenerateDataKey* what these tell the "
            "topic is lost (docs/operations.md has the statement)",
        )
    return Finding("ok", subject, arn)


def _network(stage: Stage, settings: Settings) -> Finding:
    """Look whether an existing VPC has the subnets, and what is called from them."""
    ec2, network, subject = stage.client("ec2"), settings.network, "network"
    try:
        subnets = ec2.describe_subnets(SubnetIds=list(network.subnet_ids))["Subnets"]
    except ClientError as error:
        return Finding("error", subject, f"network.subnet_ids: {error}")
    if strange := [item["SubnetId"] for item in subnets if item["VpcId"] != network.vpc_id]:
        return Finding("error", subject, f"{', '.join(strange)} are not in {network.vpc_id}: see network.subnet_ids")
    found = ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [network.vpc_id]}])["VpcEndpoints"]
    there = {item["ServiceName"].removeprefix(f"com.amazonaws.{stage.region}.") for item in found}
    if network.make_endpoints:
        own = {item["ServiceName"] for item in found if f"{stage.prefix}-network" in str(item.get("Tags"))}
        foreign = sorted(name for name in called_services() & there if f"com.amazonaws.{stage.region}.{name}" not in own)
        if foreign:
            return Finding(
                "error",
                subject,
                f"{network.vpc_id} has endpoints of {', '.join(foreign)} already, and no second one can be made: make "
                "those that are missing by hand, and set network.make_endpoints to false",
            )
    elif not network.egress and (missing := sorted(called_services() - there)):
        return Finding("error", subject, f"{network.vpc_id} has neither egress nor an endpoint of {', '.join(missing)}")
    zones = {item["AvailabilityZone"] for item in subnets}
    if len(zones) < 2:
        return Finding("warning", subject, f"all subnets are in {', '.join(zones)}: an outage there takes the stage along")
    return Finding("ok", subject, f"{network.vpc_id}, in {', '.join(sorted(zones))}")


def _quotas(stage: Stage, settings: Settings) -> Iterator[Finding]:
    training, serving = settings.training, settings.serving
    kind = "spot training job" if training.use_spot else "training job"
    wanted = {
        f"{training.instance_type} for {kind} usage": training.instance_count,
        f"{settings.evaluation.instance_type} for processing job usage": 1,
        # A blue/green update runs the new instances beside all that are there, which may be as many as autoscaling takes.
        f"{serving.instance_type} for endpoint usage": 2 * settings.most_instances,
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
    calls = math.ceil(settings.most_instances * serving.concurrent_requests_per_instance)
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
