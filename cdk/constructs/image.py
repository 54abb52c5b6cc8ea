"""The container image of jobs and endpoint: one of yours, or built from this repository during the deploy."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from cdklabs import deploy_time_build
from constructs import Construct, IConstruct

from cdk.constructs.acknowledgements import acknowledge, acknowledge_managed_policy, acknowledge_wildcards
from cdk.constructs.permissions import NO_RESOURCE, allow
from cdk.constructs.python_function import ROOT
from cdk.constructs.removal import kept_under_its_name
from ko_reranker.settings import Settings

# What the build is given: what the image holds, as .dockerignore says, and how it is made. Anything else, such as an edit of
# the README, would be another asset, and gigabytes built and pulled for nothing.
EXCLUDED = [*(ROOT / ".dockerignore").read_text().splitlines(), "!Dockerfile", "!.dockerignore"]


def container_image(scope: Construct, settings: Settings) -> str:
    """Return the URI of the stage's image; without ``image.uri`` CodeBuild builds it, so that nobody needs Docker."""
    if settings.image.uri:
        return settings.image.uri
    repository = ecr.Repository(
        scope,
        "Repository",
        repository_name=settings.prefix,
        image_scan_on_push=True,
        # Each build has a tag of its own, and a model package names the image it was made with, for as long as it is there.
        image_tag_mutability=ecr.TagMutability.IMMUTABLE,
        # Nothing with a tag expires: a package of long ago can be released, and needs its image.
        lifecycle_rules=[ecr.LifecycleRule(tag_status=ecr.TagStatus.UNTAGGED, max_image_age=cdk.Duration.days(14))],
        removal_policy=kept_under_its_name(settings),
        empty_on_delete=not settings.data.retain,
    )
    build = deploy_time_build.ContainerImageBuild(
        scope,
        "Image",
        directory=str(ROOT),
        exclude=EXCLUDED,
        ignore_mode=cdk.IgnoreMode.DOCKER,
        repository=repository,
        platform=ecr_assets.Platform.LINUX_AMD64,
    )
    project = _project(cdk.Stack.of(build))
    _enlarge(project)
    _acknowledge_what_the_build_makes(project, settings.identity.bootstrap_qualifier)
    return build.image_uri


def build_logs(stack: cdk.Stack) -> list[str]:
    """The log groups that image builds of a stack write to, which CodeBuild and Lambda name."""
    projects = [construct for construct in stack.node.find_all() if isinstance(construct, codebuild.CfnProject)]
    handlers = [
        construct
        for child in stack.node.children
        if _is_handler(child)
        for construct in child.node.find_all()
        if isinstance(construct, lambda_.CfnFunction)
    ]
    return [*(f"/aws/codebuild/{item.ref}" for item in projects), *(f"/aws/lambda/{item.ref}" for item in handlers)]


def _is_handler(construct: IConstruct) -> bool:
    """Whether it is the function that starts builds, of which deploy-time-build makes one in a stack."""
    return construct.node.id.startswith("DeployTimeBuildCustomResourceHandler")


def _project(stack: cdk.Stack) -> codebuild.CfnProject:
    """The one project of deploy-time-build, which it makes in the stack itself."""
    [project] = [construct for construct in stack.node.find_all() if isinstance(construct, codebuild.CfnProject)]
    return project


def _enlarge(project: codebuild.CfnProject) -> None:
    """Give the build the room that PyTorch with CUDA takes.

    deploy-time-build's project has 3 GB of memory and 64 GB of disk. Packages of 4 GB unpacked to 8, a layer, the image and
    its compressed copy on the way to the registry want more, and the pushing is what more processors shorten. Large has 8
    processors, 15 GB and 128 GB of disk, at four times small's price a minute: some 40 cents a build
    (https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-compute-types.html).
    """
    project.add_property_override("Environment.ComputeType", "BUILD_GENERAL1_LARGE")


def _acknowledge_what_the_build_makes(project: codebuild.CfnProject, qualifier: str) -> None:
    acknowledge(project, "CB4", reason="The project keeps no artefact; the image lies in an encrypted repository.")
    written = "Written by deploy-time-build, whose build role reads the assets bucket and writes its own log and report groups."
    build = project.node.scope
    assert build is not None  # noqa: S101 - it is below its stack
    acknowledge_managed_policy(build, "AmazonElasticContainerRegistryPublicReadOnly", reason=written)
    acknowledge(build, *(f"IAM5[Action::s3:{action}*]" for action in ("GetBucket", "GetObject", "List")), reason=written)
    stack = cdk.Stack.of(project)
    wildcards = [
        stack.format_arn(
            service="logs",
            resource="log-group",
            resource_name=f"/aws/codebuild/{project.ref}:*",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        ),
        stack.format_arn(service="codebuild", resource="report-group", resource_name=f"{project.ref}-*"),
        f"arn:{stack.partition}:s3:::cdk-{qualifier}-assets-{stack.account}-{stack.region}/*",
        "*",
    ]
    acknowledge_wildcards(build, wildcards, reason=written)
    [handler] = filter(_is_handler, stack.node.children)
    acknowledge_managed_policy(handler, "service-role/AWSLambdaBasicExecutionRole", reason=written)
    acknowledge(handler, "L1", reason="The runtime is deploy-time-build's to choose.")


def allow_image_pull(role: iam.Role, settings: Settings) -> None:
    """Let a SageMaker role pull the image: from the repository of ``image.uri``, or from the stage's own."""
    if _allow_on_repository(role, settings, "BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer"):
        allow(role, "ecr:GetAuthorizationToken", on=["*"], because=NO_RESOURCE)


def allow_image_look(role: iam.Role, settings: Settings) -> None:
    """Let a role see that the image is there, as whoever registers a model with it must."""
    _allow_on_repository(role, settings, "BatchGetImage", "DescribeImages")


def _allow_on_repository(role: iam.Role, settings: Settings, *actions: str) -> bool:
    """Allow actions on the image's repository, if it is one of Amazon ECR."""
    uri = settings.image.uri
    if uri and ".dkr.ecr." not in uri:
        return False
    name = uri.split("/", 1)[1].split("@")[0].split(":")[0] if uri else settings.prefix
    repository = cdk.Stack.of(role).format_arn(service="ecr", resource="repository", resource_name=name)
    allow(role, *(f"ecr:{action}" for action in actions), on=[repository])
    return True
