"""A deployed stage: its clients and what its stacks put out, the same for the local cloud and for AWS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Protocol

from ko_reranker.operations import local
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project

STACKS = ("data", "pipeline", "serving", "api", "observability")
# Where CloudFront's web ACLs live; the stack is there only with a rate rule in front of CloudFront.
EDGE_STACK, EDGE_REGION = "edge", "us-east-1"
# There only where the settings ask for a VPC.
NETWORK_STACK = "network"


class Cloud(Protocol):
    """What a stage asks of a local cloud."""

    @property
    def gateway_url(self) -> str:
        """The base URL of the rerank API, without a slash at its end."""
        ...

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of a service."""
        ...


@dataclass
class Stage:
    """A stage and the way to it.

    Attributes:
        name: local, dev or prod.
        prefix: begins the name of everything of the stage.
        region: its AWS region.
        client: returns a boto3 client of a service. To make one takes .1 s of CPU, and whoever waits asks every second: each is
            made once.
    """

    name: str
    prefix: str
    region: str
    client: Callable[..., Any]
    gateway_url: str | None = None
    _outputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def connect(cls, name: str, project: Project, *, cloud: Cloud | None = None) -> Stage:
        """Return a stage of a project.

        Args:
            cloud: what answers for AWS in the stage ``local``; None = the local cloud that runs in the project's folder.

        Raises:
            OperationError: there is no such stage, its settings aren't valid, the local cloud isn't running, or there is no way
                to AWS.
        """
        settings = project.settings(name)
        prefix, region = settings.prefix, settings.region
        if name == "local":
            cloud = cloud or local.running_in(project.root)
            if cloud is None:
                raise OperationError("the local cloud isn't running: start it with `make run`, or `ko-reranker local up`")
            return cls(name, prefix, region, cache(cloud.client), gateway_url=cloud.gateway_url)
        import boto3

        session = boto3.session.Session(region_name=region)
        if session.get_credentials() is None:
            raise OperationError(
                f"no AWS credentials for stage {name}: run `aws configure`, `aws sso login`, or set AWS_PROFILE"
            )
        return cls(name, prefix, region, cache(session.client))

    def in_region(self, service: str, region: str) -> Any:
        """A client of a service in another region than the stage's own, or in that."""
        return self.client(service) if region == self.region else self.client(service, region_name=region)

    def output(self, key: str) -> str:
        """Return an output of the stage's stacks.

        Raises:
            OperationError: when the stack that has it isn't deployed.
        """
        if key not in self._outputs:
            self._load_outputs()
        if key not in self._outputs:
            raise OperationError(
                f"stage {self.name} has no {key}: its stacks aren't deployed (npx cdk deploy --all -c stage={self.name})"
            )
        return self._outputs[key]

    def _load_outputs(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        cloudformation = self.client("cloudformation")
        for stack in STACKS:
            try:
                found = cloudformation.describe_stacks(StackName=f"{self.prefix}-{stack}")["Stacks"][0]
            except ClientError as error:
                if error.response["Error"]["Code"] != "ValidationError":  # that is how CloudFormation says there is none
                    raise OperationError(f"can't read the stacks of stage {self.name}: {error}") from None
                continue
            except BotoCoreError as error:
                raise OperationError(f"can't reach AWS: {error}") from None
            self._outputs |= {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", ())}

    def live_model(self) -> tuple[str, str, str] | None:
        """Return package ARN, model data URI and image of the live model, or None when none has been chosen."""
        ssm = self.client("ssm")
        try:
            value = ssm.get_parameter(Name=self.output("LiveModelParameter"))["Parameter"]["Value"]
        except ssm.exceptions.ParameterNotFound:
            return None
        package, data, image = value.split(",")
        return None if package == "none" else (package, data, image)

    @cached_property
    def api_key(self) -> str:
        """The key that was made with the stack."""
        key: str = self.client("apigateway").get_api_key(apiKey=self.output("ApiKeyId"), includeValue=True)["value"]
        return key

    @property
    def api_url(self) -> str:
        """The base URL of the rerank API, without a slash at its end."""
        return self.gateway_url or self.output("ApiUrl").rstrip("/")
