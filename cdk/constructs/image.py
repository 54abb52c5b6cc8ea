"""The container image of jobs and endpoint: one of yours, or built from this repository during the deploy."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from cdklabs import deploy_time_build
from constructs import Construct

from cdk.constructs.python_function import ROOT
from cdk.settings import Settings

# What the image does not hold: everything but the package, its pins and the Dockerfile.
_EXCLUDED = [".*", "node_modules", "cdk.out", "cdk", "lambda", "tests", "benchmarks", "docs", "*.egg-info", "build"]


def container_image(scope: Construct, settings: Settings) -> str:
    """Return the URI of the stage's image; without ``image.uri`` CodeBuild builds it, so that nobody needs Docker."""
    if settings.image.uri:
        return settings.image.uri
    repository = ecr.Repository(
        scope,
        "Repository",
        repository_name=settings.prefix,
        image_scan_on_push=True,
        removal_policy=cdk.RemovalPolicy.RETAIN if settings.data.retain else cdk.RemovalPolicy.DESTROY,
        empty_on_delete=not settings.data.retain,
    )
    build = deploy_time_build.ContainerImageBuild(
        scope,
        "Image",
        directory=str(ROOT),
        exclude=_EXCLUDED,
        repository=repository,
        platform=ecr_assets.Platform.LINUX_AMD64,
    )
    return build.image_uri


def allow_image_pull(role: iam.Role, settings: Settings) -> None:
    """Let a SageMaker role pull the image: from the repository of ``image.uri``, or from the stage's own."""
    uri = settings.image.uri
    if uri and ".dkr.ecr." not in uri:
        return
    stack = cdk.Stack.of(role)
    name = uri.split("/", 1)[1].split("@")[0].split(":")[0] if uri else settings.prefix
    role.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            resources=[stack.format_arn(service="ecr", resource="repository", resource_name=name)],
        )
    )
    # This action knows no resources.
    role.add_to_principal_policy(iam.PolicyStatement(actions=["ecr:GetAuthorizationToken"], resources=["*"]))
