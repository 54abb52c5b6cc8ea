"""cdk-nag's findings that stay, each on one resource and with its reason.

A finding's id holds what it found, so an acknowledgement covers that and nothing that is added later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import aws_cdk as cdk
from constructs import IConstruct

from cdk.settings import Settings

_ARN = "arn:<AWS::Partition>"
# How cdk-nag writes the data bucket's ARN where another stack imports it.
_BUCKET = "{prefix}-data:ExportsOutputFnGetAttBucket83908E77Arn063C8555"

_PREFIX = "Objects under this prefix: S3 knows no other way to name a folder."
_NO_RESOURCE = "These actions know no resources."
_OWN_NAMES = "Jobs, models and executions get their names when they start; the stage's prefix bounds them."
_LOG_GROUPS = "SageMaker names its log groups and streams when it starts them."
_PROJECT, _HANDLER = "ContainerImageBuild*", "DeployTimeBuildCustomResourceHandler*"
_RUNTIME = "Python 3.13 is the newest that the library is tested on."
_BUILD = "Written by deploy-time-build, whose build role reads the assets bucket and writes its own log and report groups."


def acknowledge(stacks: Mapping[str, cdk.Stack], settings: Settings) -> None:
    """Put the acknowledgements onto the constructs they speak of; one that a stage doesn't have is passed over."""
    account = f"{settings.region}:<AWS::AccountId>"
    for stack, path, rule, reason in _findings(settings):
        construct = _find(stacks[stack], path)
        if construct:
            found = rule.format(
                prefix=settings.prefix, account=account, region=settings.region, project=_build_project(stacks["pipeline"])
            )
            cdk.Validations.of(construct).acknowledge(
                cdk.Acknowledgment(id=f"AwsSolutions::AwsSolutions-{found}", reason=reason)
            )


def _build_project(stack: cdk.Stack) -> str:
    project = _find(stack, f"{_PROJECT}/Resource")
    return stack.get_logical_id(project) if isinstance(project, cdk.CfnElement) else ""


def _find(root: IConstruct, path: str) -> IConstruct | None:
    """Return the construct below a root; a step that ends in * stands for the one child whose name begins so."""
    for step in path.split("/"):
        children = [child for child in root.node.children if fnmatchcase(child.node.id, step)]
        if len(children) != 1:
            return None
        root = children[0]
    return root


def _findings(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    functions = {
        "pipeline": ("CheckInput", "Plan", "Translate", "ShardFailures", "Join", "Gate"),
        "serving": ("SmokeTest",),
        "api": ("Rerank", "Authorizer"),
    }
    for stack, names in functions.items():
        for name in names:
            yield stack, f"{name}/Function/Resource", "L1", _RUNTIME
    prefixes = {
        ("pipeline", "TrainingRole"): ("runs", "models"),
        ("pipeline", "ProcessingRole"): ("runs", "models", "models/*/evaluation"),
        ("pipeline", "Plan/Role"): ("raw", "runs"),
        ("pipeline", "Translate/Role"): ("runs",),
        ("pipeline", "ShardFailures/Role"): ("runs",),
        ("pipeline", "Join/Role"): ("raw", "runs"),
        ("pipeline", "Gate/Role"): ("models/*/evaluation",),
        ("pipeline", "Retraining/Retrain/Role"): ("runs",),
        ("serving", "EndpointRole"): ("models",),
        ("serving", "SmokeTest/Role"): ("models/*/evaluation",),
    }
    for (stack, path), folders in prefixes.items():
        for folder in folders:
            yield stack, f"{path}/DefaultPolicy/Resource", f"IAM5[Resource::{_BUCKET}/{folder}/*]", _PREFIX
    for stack, path in (("pipeline", "TrainingRole"), ("pipeline", "ProcessingRole"), ("serving", "EndpointRole")):
        policy = f"{path}/DefaultPolicy/Resource"
        yield stack, policy, f"IAM5[Resource::{_ARN}:logs:{{account}}:log-group:/aws/sagemaker/*]", _LOG_GROUPS
        yield stack, policy, "IAM5[Resource::*]", f"{_NO_RESOURCE} PutMetricData is bounded by namespace."
    for stack, path in (
        ("pipeline", "Translate/Role"),
        ("pipeline", "Retraining/Retrain/Role"),
        ("serving", "Deployment/Deploy/Role"),
    ):
        yield stack, f"{path}/DefaultPolicy/Resource", "IAM5[Resource::*]", _NO_RESOURCE
    names = {
        ("pipeline", "Retraining/Retrain/Role"): (
            "sagemaker:{account}:training-job/{prefix}-*",
            "sagemaker:{account}:processing-job/{prefix}-*",
            "sagemaker:{account}:model-package/{prefix}/*",
            "states:{account}:execution:{prefix}-retrain/*",
        ),
        ("serving", "Deployment/Deploy/Role"): (
            "sagemaker:{account}:model-package/{prefix}/*",
            "sagemaker:{account}:model/{prefix}-*",
            "sagemaker:{account}:endpoint-config/{prefix}-*",
            "states:{account}:execution:{prefix}-deploy:*",
        ),
    }
    for (stack, path), resources in names.items():
        for resource in resources:
            yield stack, f"{path}/DefaultPolicy/Resource", f"IAM5[Resource::{_ARN}:{resource}]", _OWN_NAMES
    yield "pipeline", f"{_HANDLER}/Resource", "L1", "The runtime is deploy-time-build's to choose."
    basic = f"IAM4[Policy::{_ARN}:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole]"
    public = f"IAM4[Policy::{_ARN}:iam::aws:policy/AmazonElasticContainerRegistryPublicReadOnly]"
    yield "pipeline", f"{_HANDLER}/ServiceRole/Resource", basic, _BUILD
    yield "pipeline", f"{_PROJECT}/Role/Resource", public, _BUILD
    yield "pipeline", f"{_PROJECT}/Resource", "CB4", "The project keeps no artefact; the image lies in an encrypted repository."
    for found in (
        f"Resource::{_ARN}:logs:{{account}}:log-group:/aws/codebuild/<{{project}}>:*",
        f"Resource::{_ARN}:codebuild:{{account}}:report-group/<{{project}}>-*",
        f"Resource::{_ARN}:s3:::cdk-hnb659fds-assets-<AWS::AccountId>-{{region}}/*",
        "Resource::*",
        "Action::s3:GetBucket*",
        "Action::s3:GetObject*",
        "Action::s3:List*",
    ):
        yield "pipeline", f"{_PROJECT}/Role/DefaultPolicy/Resource", f"IAM5[{found}]", _BUILD
    own_check = "The rerank Lambda checks requests itself and answers in the caller's dialect; a model could do neither."
    yield "api", "Api/Resource", "APIG2", own_check
    no_text = "The access log tells who asked what; execution logs would hold headers, and with them keys."
    yield "api", "Api/DeploymentStage.api/Resource", "APIG6", no_text
    yield "api", "Api/DeploymentStage.api/Resource", "APIG3", "A web ACL is a setting of the stage."
    front = "Root/Distribution/Resource"
    yield "api", front, "CFR1", "Callers may be anywhere; keys decide."
    yield "api", front, "CFR2", "A web ACL is a setting of the stage; it stands at API Gateway, where every request passes."
    yield "api", front, "CFR3", "API Gateway's access log holds every request that passes, and names its key by id."
    yield "api", front, "CFR4", "CloudFront's own domain fixes the version; root custom_domain speaks TLS 1.2 and later."
    keys = "API Gateway's own keys decide, through the authorizer that takes them out of any header; there are no users."
    yield "api", "Api/Default/health/GET/Resource", "APIG4", "Health checks come without a key and learn nothing."
    yield (
        "api",
        "Api/Default/openapi.json/GET/Resource",
        "APIG4",
        "The API's description is open, as its documentation is.",
    )
    methods = ("ANY", "{proxy+}/ANY", "health/GET", "health/ANY", "openapi.json/GET", "openapi.json/ANY")
    for method in methods:
        yield "api", f"Api/Default/{method}/Resource", "COG4", keys
    push = f"IAM4[Policy::{_ARN}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs]"
    yield "api", "Api/CloudWatchRole/Resource", push, "The managed policy is what API Gateway asks for in its account settings."
