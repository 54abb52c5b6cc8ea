"""The retraining: its Lambdas, its jobs' roles, its image, its state machine, and who hears when it stops."""

from __future__ import annotations

import json

import aws_cdk as cdk
from constructs import Construct

from cdk.constructs.data_access import allow_objects, allow_table
from cdk.constructs.image import allow_image_pull, container_image
from cdk.constructs.notifications import notify_about_failures
from cdk.constructs.permissions import allow_job_basics, job_roles
from cdk.constructs.python_function import ROOT, PythonFunction
from cdk.constructs.retraining import Functions, Retraining
from cdk.settings import Settings
from cdk.stacks.data import DataStack

_LIBRARY = ("data",)


class PipelineStack(cdk.Stack):
    """Everything between raw records and a registered model package."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, data: DataStack, **kwargs) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: translate, train, evaluate, register", **kwargs)
        image = container_image(self, settings)
        training_role, processing_role = job_roles(self, data)
        for role in (training_role, processing_role):
            allow_job_basics(role)
            allow_image_pull(role, settings)
        retraining = Retraining(
            self,
            "Retraining",
            settings=settings,
            data=data,
            functions=self._functions(settings, data),
            training_role=training_role,
            processing_role=processing_role,
            image=image,
        )
        notify_about_failures(self, data, retraining.machine.state_machine_arn)
        cdk.CfnOutput(self, "RetrainStateMachine", value=retraining.machine.state_machine_arn)
        cdk.CfnOutput(self, "ImageUri", value=image)

    def _functions(self, settings: Settings, data: DataStack) -> Functions:
        minutes, translation = cdk.Duration.minutes, settings.translation
        bucket = {"DATA_BUCKET": data.bucket.bucket_name}
        memory = {"TRANSLATION_MEMORY": data.translation_memory.table_name}
        functions = Functions(
            check_input=PythonFunction(
                self,
                "CheckInput",
                folder="check_input",
                library=_LIBRARY,
                environment={"DEFAULTS": cdk.Fn.sub(_defaults(settings), {"DataBucket": data.bucket.bucket_name})},
            ),
            plan=PythonFunction(
                self,
                "Plan",
                folder="plan",
                library=_LIBRARY,
                timeout=minutes(15),
                memory_mb=2048,
                ephemeral_gb=10,
                environment={
                    **bucket,
                    **memory,
                    "USD_PER_MILLION_CHARACTERS": str(translation.usd_per_million_characters),
                    "CHARACTERS_PER_SECOND": str(translation.characters_per_second),
                    "SHARD_BYTES": str(translation.shard_kilobytes * 1024),
                },
            ),
            translate=PythonFunction(
                self,
                "Translate",
                folder="translate",
                library=_LIBRARY,
                timeout=minutes(15),
                environment={**bucket, **memory, "CONCURRENCY": str(translation.requests_in_flight)},
            ),
            shard_failures=PythonFunction(self, "ShardFailures", folder="shard_failures", library=_LIBRARY, environment=bucket),
            join=PythonFunction(
                self,
                "Join",
                folder="join",
                library=_LIBRARY,
                timeout=minutes(15),
                memory_mb=2048,
                ephemeral_gb=10,
                environment=bucket,
            ),
            gate=PythonFunction(
                self,
                "Gate",
                folder="gate",
                library=_LIBRARY,
                environment={
                    **bucket,
                    "GATE_METRIC": settings.evaluation.metric,
                    "GATE_MUST_BEAT": json.dumps(settings.evaluation.must_beat.asked),
                    "GATE_MIN_QUERIES": str(settings.evaluation.min_queries),
                },
            ),
        )
        allow_objects(functions.plan.role, data, read=["raw/"], write=["runs/"])
        allow_table(functions.plan.role, data, data.translation_memory, "BatchGetItem")
        allow_objects(functions.translate.role, data, read=["runs/"], write=["runs/"])
        allow_table(functions.translate.role, data, data.translation_memory, "BatchGetItem", "PutItem")
        # TranslateText knows no resources, terminologies aside; GetTerminology is implied by naming one.
        functions.translate.allow("translate:TranslateText", on=["*"])
        allow_objects(functions.join.role, data, read=["raw/", "runs/"], write=["runs/"], delete=["runs/"])
        allow_objects(functions.shard_failures.role, data, read=["runs/"])
        allow_objects(functions.gate.role, data, read=["models/*/evaluation/"])
        return functions


def _defaults(settings: Settings) -> str:
    """The execution input's defaults for the check_input function, with ${DataBucket} left to CloudFormation."""
    translation, training = settings.translation, settings.training
    return json.dumps(
        {
            "bucket": "${DataBucket}",
            "job_name_prefix": f"{settings.prefix}-",
            "recipes": sorted(path.stem for path in (ROOT / "training_job" / "recipes").glob("*.yaml")),
            "max_training_hours": training.max_hours,
            "max_instances": training.max_instances,
            "dev_fraction": translation.dev_fraction,
            "max_rejected_fraction": translation.max_rejected_fraction,
            "dataset": translation.dataset,
            "source_language": translation.source_language,
            "target_language": translation.target_language,
            "max_translation_usd": translation.max_translation_usd,
            "formality": translation.formality,
            "terminology": translation.terminology,
            "recipe": training.recipe,
            "base_model": training.base_model,
            "instance_type": training.instance_type,
            "instance_count": training.instance_count,
            "use_spot": training.use_spot,
            "mine_negatives": training.mine_negatives,
            "approval": settings.release.approval,
        }
    )
