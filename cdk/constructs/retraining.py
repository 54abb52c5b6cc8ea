"""The retraining state machine: from raw records to a registered model package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk.constructs.image import allow_image_look
from cdk.constructs.learning import Learning
from cdk.constructs.live_model import LiveModel
from cdk.constructs.permissions import OWN_NAMES
from cdk.constructs.pipeline_functions import PipelineFunctions
from cdk.constructs.preparation import Preparation
from cdk.constructs.registration import Registration
from cdk.constructs.states import FailureTail, LoggedStateMachine
from cdk.constructs.stores import DataBucket, NoticeTopic, RecordTable
from ko_reranker.settings import Settings


class Retraining(Construct):
    """Plan, translate, join, mine, train, evaluate, decide and register.

    Args:
        functions: the steps that are Lambdas.
        training_role: what the training job may do.
        processing_role: what the mining and evaluation jobs may do.
        image: the URI of the container image.
        vpc: where jobs run, as SageMaker's ``VpcConfig``; None for networks of SageMaker's own.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        bucket: DataBucket,
        releases: RecordTable,
        topic: NoticeTopic,
        live_model: LiveModel,
        functions: PipelineFunctions,
        training_role: iam.Role,
        processing_role: iam.Role,
        image: str,
        vpc: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._functions = settings, functions
        self._bucket, self._releases, self._topic, self._live_model = bucket, releases, topic, live_model
        self._job_roles = [training_role.role_arn, processing_role.role_arn]
        failure = FailureTail(self, "Failure", error="RetrainingStopped")
        preparation = Preparation(
            self, "Preparation", settings=settings.translation, bucket=bucket, functions=functions, failure=failure
        )
        learning = Learning(
            self,
            "Learning",
            settings=settings,
            bucket=bucket,
            live_model=live_model,
            processing_role=processing_role,
            image=image,
            gate=functions.gate,
            failure=failure,
            vpc=vpc,
        )
        registration = Registration(
            self,
            "Registration",
            settings=settings,
            bucket=bucket,
            releases=releases,
            topic=topic,
            image=image,
            failure=failure,
        )
        machine = LoggedStateMachine(
            self,
            "Retrain",
            name=f"{settings.prefix}-retrain",
            comment="Translate training data, fine-tune the reranker, evaluate it, and register it for release",
            definition=preparation.chain.next(learning.chain).next(registration.start),
            timeout=cdk.Duration.days(7),
            tracing=settings.recording.tracing,
        )
        self.machine = machine.machine
        self._allow(machine)

    def _allow(self, machine: LoggedStateMachine) -> None:
        machine.allow("lambda:InvokeFunction", on=[item.function.function_arn for item in self._functions.all()])
        self._allow_jobs(machine)
        self._allow_registration(machine)
        self._live_model.grant_read(machine.role)
        self._allow_shards(machine)
        self._releases.grant(machine.role, "GetItem")
        self._topic.grant_publish(machine.role)

    def _arn(self, service: str, resource: str, name: str) -> str:
        return cdk.Stack.of(self).format_arn(service=service, resource=resource, resource_name=name)

    def _allow_jobs(self, machine: LoggedStateMachine) -> None:
        for kind, path in (("Training", "training-job"), ("Processing", "processing-job")):
            # Step Functions tags the jobs it starts, and the documented policy of `.sync` has ListTags beside them.
            # https://docs.aws.amazon.com/step-functions/latest/dg/sagemaker-iam.html
            actions = [f"sagemaker:{verb}{kind}Job" for verb in ("Create", "Describe", "Stop")]
            machine.allow(
                *actions,
                "sagemaker:AddTags",
                "sagemaker:ListTags",
                on=[self._arn("sagemaker", path, f"{self._settings.prefix}-*")],
                because=OWN_NAMES,
            )
            # `.sync` hears of a job's end through a rule that Step Functions keeps under this name.
            machine.allow(
                "events:PutTargets",
                "events:PutRule",
                "events:DescribeRule",
                on=[self._arn("events", "rule", f"StepFunctionsGetEventsForSageMaker{kind}JobsRule")],
            )
        machine.allow(
            "iam:PassRole",
            on=self._job_roles,
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )

    def _allow_registration(self, machine: LoggedStateMachine) -> None:
        prefix = self._settings.prefix
        machine.allow(
            "sagemaker:CreateModelPackage",
            on=[self._arn("sagemaker", "model-package-group", prefix), self._arn("sagemaker", "model-package", f"{prefix}/*")],
            because=OWN_NAMES,
        )
        # Whoever puts a version into the registry must be able to look at its image and its data.
        # https://docs.aws.amazon.com/sagemaker/latest/dg/security-iam-awsmanpol-model-registry.html
        allow_image_look(machine.role, self._settings)
        self._bucket.grant_objects(machine.role, read=["models/"])

    def _allow_shards(self, machine: LoggedStateMachine) -> None:
        stack, prefix = cdk.Stack.of(self), self._settings.prefix
        # The distributed map starts its children as executions of this very machine, named without a reference to it.
        own = stack.format_arn(
            service="states",
            resource="stateMachine",
            resource_name=f"{prefix}-retrain",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        children = stack.format_arn(
            service="states",
            resource="execution",
            resource_name=f"{prefix}-retrain/*",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        machine.allow("states:StartExecution", on=[own])
        machine.allow(
            "states:DescribeExecution", "states:StopExecution", "states:RedriveExecution", on=[children], because=OWN_NAMES
        )
        self._bucket.grant_objects(machine.role, read=["runs/"], write=["runs/"])
        # The map's result writer asks which parts of an upload are there.
        self._bucket.grant_list_parts(machine.role, "runs/")
