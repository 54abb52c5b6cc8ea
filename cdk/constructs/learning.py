"""States of the retraining: from a dataset to a trained, evaluated and judged model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.jobs import Expression, processing_job, training_job
from cdk.constructs.live_model import LiveModel
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.states import FailureTail, call, invoke, look_up_live_model
from cdk.constructs.stores import DataBucket
from ko_reranker.instances import judging_precision
from ko_reranker.settings import Settings

_THROTTLED = ["SageMaker.SdkClientException", "SageMaker.ThrottlingException"]
# Beside the model, where nothing expires and no later training of the run overwrites it: a release long after still needs
# the golden queries, and who asks what a model is needs its figures and its data.
_MODEL_PREFIX = "States.Format('models/{}/{}', $.request.run, $.training.job)"


class Learning(Construct):
    """Mine hard negatives, train, evaluate, decide.

    Args:
        processing_role: what the mining and evaluation jobs may do.
        image: the URI of the container image.
        gate: the function that decides.
        failure: where failures go.
        vpc: where jobs run, as SageMaker's ``VpcConfig``; None for networks of SageMaker's own.

    Attributes:
        chain: reads ``$.request`` and ``$.dataset``; what follows it finds ``$.training``, ``$.live`` and ``$.gate``.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        bucket: DataBucket,
        live_model: LiveModel,
        processing_role: iam.Role,
        image: str,
        gate: PythonFunction,
        failure: FailureTail,
        vpc: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._bucket, self._vpc = settings, bucket, vpc
        self._processing_role, self._image, self._failure = processing_role, image, failure
        mine = self._processing(
            "Mine hard negatives",
            command="mine",
            options=settings.mining.model_dump(),
            output="mined",
            output_prefix="$.request.prefix",
            comment="Passages that BM25 ranks high and that do not answer, by the image's `mine` command",
        )
        train = self._train()
        evaluate = self._evaluate()
        decide = invoke(
            self,
            "Read the evaluation",
            gate.function,
            {"prefix.$": _MODEL_PREFIX},
            comment="Does the candidate beat what it must beat?",
            result_path="$.gate",
            failure=failure,
        )
        choose = sfn.Choice(self, "Mine hard negatives?")
        choose.when(sfn.Condition.boolean_equals("$.request.mine_negatives", True), mine).otherwise(train)
        mine.next(train)
        train.next(self._model_folder()).next(look_up_live_model(self, live_model, failure)).next(evaluate).next(decide)
        self.chain = sfn.Chain.custom(choose, [decide], decide)

    def _train(self) -> sfn.CustomState:
        return call(
            self,
            "Train",
            "sagemaker:createTrainingJob.sync",
            training_job(self._settings.resource_tags, in_vpc=self._vpc is not None),
            comment="Fine-tune with torchrun on every instance; follow the job's log in SageMaker",
            # The job's whole description may pass the limit of a state's data; this is what the rest needs.
            result_selector={
                "job.$": "$.TrainingJobName",
                "arn.$": "$.TrainingJobArn",
                "seconds.$": "$.TrainingTimeInSeconds",
            },
            result_path="$.training",
            failure=self._failure,
            retry_on=_THROTTLED,
        )

    def _model_folder(self) -> sfn.Pass:
        folder = f"s3://{self._bucket.name}/models/{{}}/{{}}/output/model/"
        return sfn.Pass(
            self,
            "Use the job's folder",
            comment="Bucket, run and job say where the model lies",
            # Not $.ModelArtifacts.S3ModelArtifacts: it may come without the slash that a valid prefix always ends with.
            # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_S3ModelDataSource.html
            parameters={
                **{f"{key}.$": f"$.training.{key}" for key in ("job", "arn", "seconds")},
                "model_data.$": f"States.Format('{folder}', $.request.run, $.training.job)",
            },
            result_path="$.training",
        )

    def _evaluate(self) -> sfn.CustomState:
        evaluation, serving = self._settings.evaluation, self._settings.serving
        server = serving.server
        return self._processing(
            "Evaluate",
            command="evaluate",
            options={
                "candidate": Expression("$.training.model_data"),
                "base": Expression("$.request.base_model"),
                "deployed": Expression("States.ArrayGetItem($.live.parts, 1)"),
                "candidates": evaluation.candidates_per_query,
                "first_stage": evaluation.first_stage,
                # It scores as the endpoint will: its golden queries must find the same scores there.
                "dtype": judging_precision(
                    server.precision, served_on=serving.instance_type, judged_on=evaluation.instance_type
                ),
                "max_length": server.max_length,
            },
            output="evaluation",
            output_prefix=_MODEL_PREFIX,
            comment="Candidate, base, deployed and no reranker on the same candidates",
        )

    def _processing(
        self, name: str, *, command: str, options: Mapping[str, object], output: str, output_prefix: str, comment: str
    ) -> sfn.CustomState:
        settings = self._settings.evaluation
        parameters = processing_job(
            command=command,
            options=options,
            image=self._image,
            role_arn=self._processing_role.role_arn,
            bucket=self._bucket.name,
            key_arn=self._bucket.key.arn,
            input_uri="$.dataset.dataset_uri",
            output=output,
            output_prefix=output_prefix,
            instance_type=settings.instance_type,
            volume_gb=settings.volume_gb,
            max_hours=settings.max_hours,
            tags=self._settings.resource_tags,
            vpc=self._vpc,
        )
        return call(
            self,
            name,
            "sagemaker:createProcessingJob.sync",
            parameters,
            comment=comment,
            result_path=None,
            failure=self._failure,
            retry_on=_THROTTLED,
        )
