"""A deployed stage: its clients and what its stacks put out, the same for the local cloud and for AWS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import STAGES, Project

if TYPE_CHECKING:
    from ko_reranker.local.cloud import LocalCloud

STACKS = ("data", "pipeline", "serving", "api")


@dataclass
class Stage:
    """A stage and the way to it.

    Attributes:
        name: local, dev or prod.
        prefix: begins the name of everything of the stage.
        region: its AWS region.
        client: makes a boto3 client of a service.
    """

    name: str
    prefix: str
    region: str
    client: Callable[[str], Any]
    gateway_url: str | None = None
    _outputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def connect(cls, name: str, project: Project, *, cloud: LocalCloud | None = None) -> Stage:
        """Return a stage of a project.

        Raises:
            OperationError: when the local cloud isn't running, or there is no way to AWS.
        """
        if name not in STAGES:
            raise OperationError(f"the stage must be one of {', '.join(STAGES)}, not {name!r}")
        prefix = f"{project.setting(name, 'name')}-{name}"
        region = project.setting(name, "region")
        if name == "local":
            from ko_reranker.local.cloud import LocalCloud

            cloud = cloud or LocalCloud.running_in(project.root)
            if cloud is None:
                raise OperationError("the local cloud isn't running: start it with `make run`, or `ko-reranker local up`")
            return cls(name, prefix, region, cloud.client, gateway_url=cloud.settings.gateway_url)
        import boto3

        session = boto3.session.Session(region_name=region)
        if session.get_credentials() is None:
            raise OperationError(
                f"no AWS credentials for stage {name}: run `aws configure`, `aws sso login`, or set AWS_PROFILE"
            )
        return cls(name, prefix, region, session.client)

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
        value = self.client("ssm").get_parameter(Name=self.output("LiveModelParameter"))["Parameter"]["Value"]
        package, data, image = value.split(",")
        return None if package == "none" else (package, data, image)

    @cached_property
    def api_key(self) -> str:
        """The key that was made with the stack."""
        return self.client("apigateway").get_api_key(apiKey=self.output("ApiKeyId"), includeValue=True)["value"]

    @property
    def api_url(self) -> str:
        """The base URL of the rerank API, without a slash at its end."""
        return self.gateway_url or self.output("ApiUrl").rstrip("/")
