"""Taking a stage away: what runs is stopped, stacks go in the order in which they depend on each other, data last."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from ko_reranker.cleanup import NotEmptied, delete_packages, delete_released, empty_bucket
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import EDGE_REGION, EDGE_STACK, NETWORK_STACK, Stage

# Whoever refers to something goes before it: CloudFront before its web ACL, everything before data and network.
ORDER = ("observability", "api", EDGE_STACK, "serving", "pipeline", "data", NETWORK_STACK)
_KEPT = ("Retain", "RetainExceptOnCreate")
_POLL_SECONDS = {"local": 0.3}
_AWS_POLL_SECONDS = 10.0
# An endpoint takes minutes to go, CloudFront a quarter of an hour; a job in its last upload an hour at worst.
_STACK_SECONDS, _ENDPOINT_SECONDS, _JOB_SECONDS = 3600, 3600, 1800
_ATTEMPTS = 3

# Kept resources by type: what they go on costing, at list prices of Seoul.
_COSTS = {
    "AWS::S3::Bucket": "about $0.025 a GB and month",
    "AWS::KMS::Key": "about $1 a month",
    "AWS::DynamoDB::Table": "about $0.28 a GB and month, and as much again for point-in-time recovery",
    "AWS::ECR::Repository": "about $0.10 a GB and month",
    "AWS::SecretsManager::Secret": "about $0.40 a month",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A resource that outlives its stack.

    Attributes:
        kind: its CloudFormation type.
        name: its physical id.
        cost: what it goes on costing.
    """

    kind: str
    name: str
    cost: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack that is there.

    Attributes:
        name: its name.
        region: where it is.
        protected: whether it has termination protection.
        buckets, groups: physical ids of buckets and model package groups that go with it.
        kept: what stays.
        builds: names of its CodeBuild projects.
    """

    key: str
    name: str
    region: str
    protected: bool = False
    buckets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()
    builds: tuple[str, ...] = ()


@dataclass(slots=True)
class Plan:
    """What destroying a stage takes away and what it leaves.

    Attributes:
        stacks: in the order in which they go.
    """

    stage: Stage
    stacks: list[Deployed] = field(default_factory=list)

    @property
    def kept(self) -> list[Kept]:
        return [item for stack in self.stacks for item in stack.kept]

    @property
    def keeps_data(self) -> bool:
        """Whether what the stage was made for stays; an account's role for API Gateway always does."""
        return any(stack.kept for stack in self.stacks if stack.key == "data")

    @property
    def buckets(self) -> list[str]:
        return [bucket for stack in self.stacks for bucket in stack.buckets]

    @property
    def protected(self) -> list[str]:
        return [stack.name for stack in self.stacks if stack.protected]


def plan(stage: Stage) -> Plan:
    """Look at a stage's stacks.

    Raises:
        OperationError: when one of them is just being changed.
    """
    found = (_deployed(stage, key) for key in _keys(stage))
    return Plan(stage, [stack for stack in found if stack])


def destroy(
    wanted: Plan,
    *,
    unprotect: bool = False,
    step: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Take a stage away. What an earlier attempt left is taken up where that ended.

    Args:
        unprotect: take termination protection off first.
        step: called with what is being done; its context lasts as long as that.

    Raises:
        OperationError: when something can't be deleted; what is gone by then stays gone.
    """
    stage = wanted.stage
    if wanted.protected and not unprotect:
        raise OperationError(
            f"{', '.join(wanted.protected)}: protected from deletion, as prod's stacks are. Give --unprotect to take the "
            "protection off and delete them"
        )
    keys = {stack.key for stack in wanted.stacks}
    if keys & {"pipeline", "serving"}:
        with step("Stop what runs"):
            _stop_executions(stage)
            _stop_jobs(stage)
    for stack in wanted.stacks:
        if stack.key == "serving":
            with step("Wait for the endpoint to be still"):
                _wait_for_endpoint(stage)
        with step(f"Delete the stack {stack.name}"):
            _delete(stage, stack, unprotect)
    with step("Delete what releases made, and logs"):
        delete_released(stage.client("sagemaker"), stage.prefix)
        _delete_logs(stage, wanted)


def left_over(stage: Stage) -> Iterator[str]:
    """Yield what is still there of a stage, by name, wherever it can be looked for."""
    for key in _keys(stage):
        try:
            stack = _deployed(stage, key)
        except OperationError:
            stack = None
            yield f"stack {stage.prefix}-{key}"
        if stack:
            yield f"stack {stack.name}"
    sagemaker, prefix = stage.client("sagemaker"), f"{stage.prefix}-"
    for kind, member in (
        ("models", "Models"),
        ("endpoint_configs", "EndpointConfigs"),
        ("endpoints", "Endpoints"),
    ):
        answer = getattr(sagemaker, f"list_{kind}")(NameContains=stage.prefix, MaxResults=100)
        for item in answer[member]:
            name = next(value for key, value in item.items() if key.endswith("Name"))
            if name == stage.prefix or name.startswith(prefix):
                yield f"{kind.removesuffix('s').replace('_', ' ')} {name}"
    for group in sagemaker.list_model_package_groups(NameContains=stage.prefix)["ModelPackageGroupSummaryList"]:
        if group["ModelPackageGroupName"] == stage.prefix:
            yield f"model package group {stage.prefix}"
    for bucket in stage.client("s3").list_buckets()["Buckets"]:
        if bucket["Name"].startswith(prefix):
            yield f"bucket {bucket['Name']}"
    for page in stage.client("dynamodb").get_paginator("list_tables").paginate():
        yield from (f"table {name}" for name in page["TableNames"] if name.startswith(prefix))
    for page in stage.client("logs").get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            if re.search(rf"/{re.escape(stage.prefix)}(?![A-Za-z0-9])", group["logGroupName"]):
                yield f"log group {group['logGroupName']}"


def _keys(stage: Stage) -> Iterator[str]:
    # The local cloud is one region.
    return (key for key in ORDER if key != EDGE_STACK or stage.name != "local")


def _deployed(stage: Stage, key: str) -> Deployed | None:
    name = f"{stage.prefix}-{key}"
    region = EDGE_REGION if key == EDGE_STACK else stage.region
    client = stage.in_region("cloudformation", region)
    try:
        stack = client.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":  # that is how CloudFormation says there is none
            return None
        raise OperationError(f"can't read the stacks of stage {stage.name}: {error}") from None
    status = stack["StackStatus"]
    if status == "DELETE_COMPLETE":
        return None
    if status == "REVIEW_IN_PROGRESS":  # a change set that would create it was never carried out: nothing in it, no template
        return Deployed(key, name, region)
    if status.endswith("_IN_PROGRESS") and status != "DELETE_IN_PROGRESS":
        raise OperationError(f"{name} is {status}: wait until that has ended")
    template = client.get_template(StackName=name, TemplateStage="Processed")["TemplateBody"]
    policies = {
        logical: item.get("DeletionPolicy", "Delete")
        for logical, item in _resources(template).items()
        if isinstance(item, dict)
    }
    gone: dict[str, list[str]] = {}
    kept = []
    for page in client.get_paginator("list_stack_resources").paginate(StackName=name):
        for item in page["StackResourceSummaries"]:
            kind, physical = item["ResourceType"], item.get("PhysicalResourceId", "")
            if not physical or item["ResourceStatus"] == "DELETE_COMPLETE":
                continue
            if policies.get(item["LogicalResourceId"]) in _KEPT:
                kept.append(Kept(kind, physical, _COSTS.get(kind, "nothing")))
            else:
                gone.setdefault(kind, []).append(physical)
    return Deployed(
        key,
        name,
        region,
        bool(stack.get("EnableTerminationProtection")),
        tuple(gone.get("AWS::S3::Bucket", ())),
        tuple(item.rsplit("/", 1)[-1] for item in gone.get("AWS::SageMaker::ModelPackageGroup", ())),
        tuple(kept),
        tuple(gone.get("AWS::CodeBuild::Project", ())),
    )


def _resources(template: Any) -> dict[str, Any]:
    if isinstance(template, str):
        template = json.loads(template)
    resources: dict[str, Any] = template.get("Resources", {})
    return resources


def _stop_executions(stage: Stage) -> None:
    client = stage.client("stepfunctions")
    running = []
    for machine in ("RetrainStateMachine", "DeployStateMachine"):
        try:
            arn = stage.output(machine)
            answer = client.list_executions(stateMachineArn=arn, statusFilter="RUNNING")
        except (OperationError, client.exceptions.StateMachineDoesNotExist):
            continue
        running += [item["executionArn"] for item in answer["executions"]]
    for arn in running:
        # It may have ended since it was listed.
        _ignore(partial(client.stop_execution, executionArn=arn, cause="The stage is being destroyed."))
    _until(
        stage,
        lambda: all(client.describe_execution(executionArn=arn)["status"] != "RUNNING" for arn in running),
        _JOB_SECONDS,
        "executions still run",
    )


def _stop_jobs(stage: Stage) -> None:
    client = stage.client("sagemaker")
    kinds = {"training": ("TrainingJob", "training_job"), "processing": ("ProcessingJob", "processing_job")}

    def running() -> list[tuple[str, str]]:
        found = []
        for kind, (shape, snake) in kinds.items():
            for status in ("InProgress", "Stopping"):
                answer = getattr(client, f"list_{snake}s")(NameContains=f"{stage.prefix}-", StatusEquals=status, MaxResults=100)
                for item in answer[f"{shape}Summaries"]:
                    name = item[f"{shape}Name"]
                    if name.startswith(f"{stage.prefix}-"):
                        found.append((kind, name))
                        if status == "InProgress":
                            _ignore(partial(getattr(client, f"stop_{snake}"), **{f"{shape}Name": name}))
        return found

    _until(stage, lambda: not running(), _JOB_SECONDS, "jobs still run")


def _wait_for_endpoint(stage: Stage) -> None:
    """An endpoint that is being updated can't be deleted."""
    client = stage.client("sagemaker")

    def still() -> bool:
        try:
            status = client.describe_endpoint(EndpointName=stage.prefix)["EndpointStatus"]
        except ClientError:
            return True
        return status in ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")

    _until(stage, still, _ENDPOINT_SECONDS, f"the endpoint {stage.prefix} is still being changed")


def _delete(stage: Stage, stack: Deployed, unprotect: bool) -> None:
    client = stage.in_region("cloudformation", stack.region)
    if stack.protected and unprotect:
        client.update_termination_protection(EnableTerminationProtection=False, StackName=stack.name)
    arn = client.describe_stacks(StackName=stack.name)["Stacks"][0]["StackId"]
    reasons = ""
    for _ in range(_ATTEMPTS):
        # Access logs arrive for hours after what they tell of: what has come in the meantime goes with the next attempt.
        _empty(stage, stack)
        client.delete_stack(StackName=arn)
        _until(stage, lambda: _status(client, arn) != "DELETE_IN_PROGRESS", _STACK_SECONDS, f"{stack.name} is still there")
        if _status(client, arn) == "DELETE_COMPLETE":
            return
        reasons = "; ".join(_reasons(client, arn))
        if "not empty" not in reasons:
            break
    raise OperationError(f"{stack.name} can't be deleted: {reasons}. Once that is solved, the same command goes on from here")


def _empty(stage: Stage, stack: Deployed) -> None:
    s3 = stage.client("s3")
    for bucket in stack.buckets:
        # No further access logs, or they fill the bucket that is emptied next.
        _ignore(partial(s3.put_bucket_logging, Bucket=bucket, BucketLoggingStatus={}))
    try:
        for bucket in stack.buckets:
            empty_bucket(s3, bucket)
        for group in stack.groups:
            delete_packages(stage.client("sagemaker"), group)
    except (NotEmptied, ClientError) as error:
        raise OperationError(f"{stack.name} can't be emptied: {error}") from None


def _status(client: Any, arn: str) -> str:
    status: str = client.describe_stacks(StackName=arn)["Stacks"][0]["StackStatus"]
    return status


def _reasons(client: Any, arn: str) -> Sequence[str]:
    """Why the last deletion failed, resource by resource."""
    found = []
    for event in client.describe_stack_events(StackName=arn)["StackEvents"]:  # the newest first
        if event["ResourceStatus"] == "DELETE_IN_PROGRESS" and event.get("PhysicalResourceId") == arn:
            break
        if event["ResourceStatus"] == "DELETE_FAILED" and event.get("PhysicalResourceId") != arn:
            found.append(f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}")
    return found or ["CloudFormation gives no reason"]


def _delete_logs(stage: Stage, wanted: Plan) -> None:
    """Delete the log groups that services made for this stage alone, unless its data is kept."""
    if wanted.keeps_data:
        return
    client = stage.client("logs")
    groups = [f"/aws/sagemaker/Endpoints/{stage.prefix}"]
    groups += [f"/aws/codebuild/{name}" for stack in wanted.stacks for name in stack.builds]
    # A function that brings no group of its own, such as that of the image's build, gets one from Lambda.
    for page in client.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/aws/lambda/{stage.prefix}-"):
        groups += [item["logGroupName"] for item in page["logGroups"]]
    for group in groups:
        _ignore(partial(client.delete_log_group, logGroupName=group))


def _until(stage: Stage, done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise OperationError(f"{otherwise} after {seconds / 60:.0f} minutes: look in the console, then run this again")
        time.sleep(_POLL_SECONDS.get(stage.name, _AWS_POLL_SECONDS))


def _ignore(call: Callable[[], object]) -> None:
    """Do what is fine to find done, or gone."""
    try:
        call()
    except ClientError:
        pass
