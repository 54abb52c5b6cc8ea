"""The retraining: its Lambdas, its jobs' roles, its image, its state machine, and who hears when it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.constructs.housekeeping import Housekeeping
from cdk.constructs.image import allow_image_pull, build_logs, container_image
from cdk.constructs.job_roles import allow_job_basics, job_roles
from cdk.constructs.network import allow_network_interfaces
from cdk.constructs.notifications import notify_about_failures
from cdk.constructs.observed import FIVE_MINUTES, Graph, Observed, Query, executions, failure_watch, labelled
from cdk.constructs.pipeline_functions import PipelineFunctions
from cdk.constructs.retraining import Retraining
from cdk.constructs.scheduled import ScheduledExecutions
from cdk.constructs.undelivered import Undelivered
from cdk.stacks.data import DataStack
from ko_reranker.retraining.training_request import TrainingPlace
from ko_reranker.settings import Settings


class PipelineStack(cdk.Stack):
    """Everything between raw records and a registered model package.

    Args:
        vpc: where jobs run, as SageMaker's ``VpcConfig``; None for networks of SageMaker's own.

    Attributes:
        observed: how retrainings do, and what translating costs.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        data: DataStack,
        vpc: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: translate, train, evaluate, register", **kwargs)
        image = container_image(self, settings)
        training_role, processing_role = job_roles(self, data.bucket)
        for role in (training_role, processing_role):
            allow_job_basics(role)
            allow_image_pull(role, settings)
            if vpc:
                allow_network_interfaces(role)
        place = TrainingPlace(
            image=image,
            role_arn=training_role.role_arn,
            bucket=data.bucket.name,
            key_arn=data.bucket.key.arn,
            volume_gb=settings.training.volume_gb,
            vpc=vpc,
        )
        functions = PipelineFunctions(self, settings=settings, bucket=data.bucket, memory=data.translation_memory, place=place)
        retraining = Retraining(
            self,
            "Retraining",
            settings=settings,
            bucket=data.bucket,
            releases=data.releases,
            topic=data.topic,
            live_model=data.live_model,
            functions=functions,
            training_role=training_role,
            processing_role=processing_role,
            image=image,
            vpc=vpc,
        )
        undelivered = Undelivered(self, "Undelivered")
        notify_about_failures(self, data.topic, retraining.machine.state_machine_arn, undelivered.queue)
        schedule = settings.schedule
        if schedule.retraining:
            ScheduledExecutions(
                self,
                "ScheduledRetraining",
                machine=retraining.machine,
                time_zone=schedule.time_zone,
                undelivered=undelivered.queue,
            ).start("Schedule", at=schedule.retraining, with_input=schedule.retraining_input, description="Begin a retraining")
        Housekeeping(self, "Housekeeping", settings=settings, builds=build_logs(self), undelivered=undelivered.queue)
        self.observed = self._observed(settings, undelivered)
        cdk.CfnOutput(self, "RetrainStateMachine", value=retraining.machine.state_machine_arn)
        cdk.CfnOutput(self, "CheckInputFunction", value=functions.check_input.function.function_name)
        cdk.CfnOutput(self, "ImageUri", value=image)

    def _observed(self, settings: Settings, undelivered: Undelivered) -> Observed:
        translation, metric = settings.translation, settings.evaluation.metric
        # https://docs.aws.amazon.com/translate/latest/dg/translate-cloudwatch.html
        languages = {
            "LanguagePair": f"{translation.source_language}-{translation.target_language}",
            "Operation": "TranslateText",
        }
        characters = labelled("AWS/Translate", "CharacterCount", languages, "Sum", "characters")
        spent = cloudwatch.MathExpression(
            expression=f"characters * {translation.usd_per_million_characters / 1e6:.9f}",
            using_metrics={"characters": characters},
            label="USD",
            period=FIVE_MINUTES,
        )
        retrainings = executions(self, f"{settings.prefix}-retrain")
        scores = [
            labelled(
                settings.name,
                f"evaluation_{metric}",
                {"endpoint": settings.prefix, "row": row},
                "Average",
                row,
                cdk.Duration.hours(1),
            )
            for row in ("candidate", "deployed", "base", "none")
        ]
        return Observed(
            title="Retraining",
            graphs=[
                Graph(title="Retrainings", metrics=retrainings),
                Graph(title=f"Evaluations ({metric})", metrics=scores),
                Graph(title="Translation", metrics=[characters], right=[spent]),
            ],
            watches=[
                failure_watch("retraining-failed", "A retraining failed or ran out of time", retrainings),
                undelivered.watch(
                    "retraining-untold", "Nobody was told that a retraining stopped: the topic did not take the notice"
                ),
            ],
            queries=[
                Query(
                    name="Steps of the last trainings",
                    log_groups=[logs.LogGroup.from_log_group_name(self, "TrainingLog", "/aws/sagemaker/TrainingJobs")],
                    text=[
                        "fields @timestamp, @logStream, @message",
                        f"filter @logStream like '{settings.prefix}-' and @message like /step=/",
                        "sort @timestamp desc",
                        "limit 200",
                    ],
                )
            ],
        )
