"""The SSM parameter that names the live model: made once, changed by the deploy state machine alone."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_ssm as ssm
from constructs import Construct, IConstruct

from cdk.constructs.permissions import allow
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.removal import kept_under_its_name
from ko_reranker.settings import Settings

# What the parameter holds before there is a live model: package ARN, model data URI, image.
NO_MODEL = ["none", "none", "none"]


class LiveModel(Construct):
    """A parameter that no deploy writes, whatever it changes or takes back.

    Attributes:
        name: the parameter's. It is known at synth, so that no stack's export stands in its way.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self.name = f"/{settings.name}/{settings.stage}/live-model"
        keeper = PythonFunction(self, "LiveModelKeeper", folder="live_model", library=("custom_resource",))
        keeper.allow("ssm:PutParameter", "ssm:DeleteParameter", on=[self._arn(self)])
        resource = cdk.CustomResource(
            self,
            "KeptLiveModel",
            resource_type="Custom::LiveModelParameter",
            service_token=keeper.function.function_arn,
            service_timeout=cdk.Duration.minutes(2),
            properties={
                "Name": self.name,
                "Value": ",".join(NO_MODEL),
                "Description": "The live model: package ARN, model data URI, image. Written by the deploy state machine.",
            },
        )
        resource.apply_removal_policy(kept_under_its_name(settings))
        self._let_go_of_the_first(settings)

    def _let_go_of_the_first(self, settings: Settings) -> None:
        # Up to 0.1.0 the parameter itself was the resource of this id, and CloudFormation wrote it. Under another name the
        # resource is replaced, and UpdateReplacePolicy, which the new template decides, lets the parameter go without deleting
        # it. A resource may not change its type.
        let_go = ssm.StringListParameter(
            self,
            "LiveModel",
            parameter_name=f"/{settings.name}/{settings.stage}/no-model",
            string_list_value=NO_MODEL,
            description="What the live model's parameter holds before there is one.",
        )
        # It holds nothing, and a destroyed stage that is deployed again finds its name free.
        let_go.apply_removal_policy(cdk.RemovalPolicy.DESTROY)
        released = let_go.node.default_child
        assert isinstance(released, cdk.CfnResource)  # noqa: S101 - what the construct is made of
        released.cfn_options.update_replace_policy = cdk.CfnDeletionPolicy.RETAIN
        # The other stacks of 0.1.0 import the name from here, and an export in use can neither change nor go.
        export = "ExportsOutputRefLiveModelC75F9687E2A86441"
        cdk.CfnOutput(self, export, value=self.name, export_name=f"{cdk.Stack.of(self).stack_name}:{export}")

    def grant_read(self, role: iam.IRole) -> None:
        """Let a role read which model is live."""
        allow(role, "ssm:GetParameter", on=[self._arn(role)])

    def grant_read_write(self, role: iam.IRole) -> None:
        """Let a role read which model is live, and change it."""
        allow(role, "ssm:GetParameter", "ssm:PutParameter", on=[self._arn(role)])

    def _arn(self, seen_from: IConstruct) -> str:
        return cdk.Stack.of(seen_from).format_arn(
            service="ssm", resource="parameter", resource_name=self.name.removeprefix("/")
        )
