"""The retraining state machine: from raw records to a registered model package."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.data_access import allow_objects, allow_publish, allow_table
from cdk.constructs.jobs import processing_job, training_job
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.states import FailureTail, LoggedStateMachine, call, invoke, look_up_live_model
from cdk.settings import Mining, Settings
from cdk.stacks.data import DataStack

_THROTTLED = ["SageMaker.SdkClientException", "SageMaker.ThrottlingException"]
# Beside the model, where nothing expires and no later training of the run overwrites it: a release long after still needs
# the golden queries, and who asks what a model is needs its figures and its data.
_MODEL_PREFIX = "States.Format('models/{}/{}', $.request.run, $.training.job)"


@dataclass(frozen=True)
class Functions:
    """The pipeline's Lambda functions."""

    check_input: PythonFunction
    plan: PythonFunction
    translate: PythonFunction
    shard_failures: PythonFunction
    join: PythonFunction
    gate: PythonFunction

    def all(self) -> tuple[PythonFunction, ...]:
        return (self.check_input, self.plan, self.translate, self.shard_failures, self.join, self.gate)


class Retraining(Construct):
    """Plan, translate, join, mine, train, evaluate, decide and register.

    Args:
        functions: the steps that are Lambdas.
        training_role: what the training job may do.
        processing_role: what the mining and evaluation jobs may do.
        image: the URI of the container image.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        data: DataStack,
        functions: Functions,
        training_role: iam.Role,
        processing_role: iam.Role,
        image: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._data, self._functions = settings, data, functions
        self._training_role, self._processing_role, self._image = training_role, processing_role, image
        self._failure = FailureTail(self, "Failure", error="RetrainingStopped")
        machine = LoggedStateMachine(
            self,
            "Retrain",
            name=f"{settings.prefix}-retrain",
            comment="Translate training data, fine-tune the reranker, evaluate it, and register it for release",
            definition=self._prepare().next(self._learn()),
            timeout=cdk.Duration.days(7),
        )
        self.machine = machine.machine
        self._allow(machine)

    # ---------------------------------------------------------------- raw records to a dataset

    def _prepare(self) -> sfn.Chain:
        check = invoke(
            self,
            "Check the input",
            self._functions.check_input.function,
            {"input.$": "$$.Execution.Input", "execution.$": "$$.Execution.Name"},
            comment="Every field is optional; what is resolved stands in $.request",
            result_selector={"request.$": "$"},
            result_path="$",
            failure=self._failure,
        )
        plan = invoke(
            self,
            "Plan the translation",
            self._functions.plan.function,
            {"request.$": "$.request"},
            comment="Distinct texts, what the memory knows, characters and dollars, before anything is spent",
            result_path="$.plan",
            failure=self._failure,
        )
        estimate_only = sfn.Succeed(self, "Estimate only", comment="dry_run: the plan stands in the output and in plan.json")
        over_budget = sfn.Fail(self, "Over budget", error="OverBudget", cause_path="$.plan.message")
        within_budget = sfn.Choice(self, "Within the budget?")
        anything = sfn.Choice(self, "Anything to translate?")
        join = invoke(
            self,
            "Join the translations",
            self._functions.join.function,
            {"request.$": "$.request"},
            comment="Records again; what could not be translated goes to quarantine with its reason",
            result_path="$.dataset",
            failure=self._failure,
        )
        translate = self._translate()
        check.next(plan).next(
            sfn.Choice(self, "Only an estimate?")
            .when(sfn.Condition.boolean_equals("$.request.dry_run", True), estimate_only)
            .otherwise(within_budget)
        )
        within_budget.when(sfn.Condition.boolean_equals("$.plan.within_budget", False), over_budget).otherwise(anything)
        anything.when(sfn.Condition.number_greater_than("$.plan.shards", 0), translate).otherwise(join)
        translate.next(join)
        return sfn.Chain.custom(check, [join], join)

    def _translate(self) -> sfn.DistributedMap:
        settings = self._settings.translation
        shards = sfn.DistributedMap(
            self,
            "Translate the shards",
            comment="One Lambda a shard; a text belongs to one shard and is paid for once",
            label="Shards",
            map_execution_type=sfn.StateMachineType.STANDARD,
            max_concurrency=settings.max_concurrency,
            tolerated_failure_percentage=settings.tolerated_failure_percentage,
            item_reader=sfn.S3JsonLItemReader(bucket=self._data.bucket, key=sfn.JsonPath.string_at("$.plan.shards_key")),
            item_selector={
                "shard.$": "$$.Map.Item.Value.shard",
                "key.$": "$$.Map.Item.Value.key",
                "cursor": 0,
                "counts": {},
                "request.$": "$.request",
            },
            result_writer_v2=sfn.ResultWriterV2(
                bucket=self._data.bucket, prefix=sfn.JsonPath.format("{}/map", sfn.JsonPath.string_at("$.request.prefix"))
            ),
            result_path=sfn.JsonPath.DISCARD,
        )
        translate = invoke(
            self,
            "Translate a shard",
            self._functions.translate.function,
            {
                "shard.$": "$.shard",
                "key.$": "$.key",
                "cursor.$": "$.cursor",
                "counts.$": "$.counts",
                "request.$": "$.request",
            },
            comment="As far as one invocation's time goes",
            result_path="$",
            failure=None,
        )
        finished = sfn.Choice(self, "Is the shard finished?")
        finished.when(sfn.Condition.boolean_equals("$.finished", False), translate).otherwise(
            sfn.Pass(self, "Shard translated", parameters={"shard.$": "$.shard", "texts.$": "$.cursor", "counts.$": "$.counts"})
        )
        shards.item_processor(translate.next(finished))
        explain = invoke(
            self,
            "Find out why shards failed",
            self._functions.shard_failures.function,
            {"prefix.$": "$.request.prefix", "error.$": "$.error"},
            comment="The map says only that too many did",
            result_path="$.error",
            failure=self._failure,
        )
        shards.add_catch(explain, result_path="$.error")
        explain.next(self._failure.start)
        return shards

    # ---------------------------------------------------------------- a dataset to a registered model

    def _learn(self) -> sfn.Chain:
        choose = sfn.Choice(self, "Mine hard negatives?")
        use_joined = sfn.Pass(
            self, "Use the joined dataset", parameters={"uri.$": "$.dataset.dataset_uri"}, result_path="$.training_data"
        )
        mine = self._processing(
            "Mine hard negatives",
            command="mine",
            arguments=_array(_mining_arguments(self._settings.mining)),
            output="mined",
            output_prefix="$.request.prefix",
            comment="Passages that BM25 ranks high and that do not answer, by the image's `mine` command",
        )
        use_mined = sfn.Pass(
            self,
            "Use the mined dataset",
            parameters={"uri.$": f"States.Format('s3://{self._data.bucket.bucket_name}/{{}}/mined/', $.request.prefix)"},
            result_path="$.training_data",
        )
        train = call(
            self,
            "Train",
            "sagemaker:createTrainingJob.sync",
            training_job(
                image=self._image,
                role_arn=self._training_role.role_arn,
                bucket=self._data.bucket.bucket_name,
                key_arn=self._data.key.key_arn,
                volume_gb=self._settings.training.volume_gb,
            ),
            comment="Fine-tune with torchrun on every instance; follow the job's log in SageMaker",
            # The job's whole description may pass the limit of a state's data; this is what the rest needs.
            result_selector={
                "job.$": "$.TrainingJobName",
                "arn.$": "$.TrainingJobArn",
                "model_data.$": "$.ModelArtifacts.S3ModelArtifacts",
                "seconds.$": "$.TrainingTimeInSeconds",
            },
            result_path="$.training",
            failure=self._failure,
            retry_on=_THROTTLED,
        )
        live = look_up_live_model(self, self._settings, self._failure)
        evaluation = self._settings.evaluation
        evaluate = self._processing(
            "Evaluate",
            command="evaluate",
            arguments=(
                "States.Array('--candidate', $.training.model_data, '--base', $.request.base_model, "
                f"'--deployed', States.ArrayGetItem($.live.parts, 1), '--candidates', '{evaluation.candidates_per_query}', "
                f"'--first-stage', '{evaluation.first_stage}')"
            ),
            output="evaluation",
            output_prefix=_MODEL_PREFIX,
            comment="Candidate, base, deployed and no reranker on the same candidates",
        )
        gate = invoke(
            self,
            "Read the evaluation",
            self._functions.gate.function,
            {"prefix.$": _MODEL_PREFIX},
            comment="Does the candidate beat what it must beat?",
            result_path="$.gate",
            failure=self._failure,
        )
        reject = self._package("Register as rejected", "Rejected", "Kept with the reason, never deployed")
        reject.next(sfn.Fail(self, "Not good enough", error="NotGoodEnough", cause_path="$.gate.reason"))
        passed = sfn.Choice(self, "Good enough to release?")

        choose.when(sfn.Condition.boolean_equals("$.request.mine_negatives", True), mine).otherwise(use_joined)
        mine.next(use_mined).next(train)
        use_joined.next(train)
        train.next(live).next(evaluate).next(gate).next(passed)
        passed.when(sfn.Condition.boolean_equals("$.gate.passed", False), reject).otherwise(self._register())
        return sfn.Chain.start(choose)

    def _processing(
        self, name: str, *, command: str, arguments: str, output: str, output_prefix: str, comment: str
    ) -> sfn.CustomState:
        settings = self._settings.evaluation
        parameters = processing_job(
            command=command,
            arguments=arguments,
            image=self._image,
            role_arn=self._processing_role.role_arn,
            bucket=self._data.bucket.bucket_name,
            key_arn=self._data.key.key_arn,
            input_uri="$.dataset.dataset_uri",
            output=output,
            output_prefix=output_prefix,
            instance_type=settings.instance_type,
            volume_gb=settings.volume_gb,
            max_hours=settings.max_hours,
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

    def _register(self) -> sfn.Chain:
        by_approval = sfn.Choice(self, "Approve automatically?")
        automatic = self._package("Register as approved", "Approved", "The approval event starts the deploy state machine")
        pending = self._package("Register for approval", "PendingManualApproval", "A person approves it in the registry")
        ask = self._publish(
            "Ask for approval",
            "a model waits for approval",
            "States.Format('{} Report: {} Approve it to deploy it: ko-reranker models approve {}', "
            "$.gate.message, $.gate.link, $.package.arn)",
            comment="Deployed when it is approved, by whom and whenever",
        )
        waiting = sfn.Succeed(self, "Waiting for approval")
        by_approval.when(
            sfn.Condition.string_equals("$.request.approval", "automatic"), automatic.next(self._wait_for_release())
        ).otherwise(pending.next(ask).next(waiting))
        return sfn.Chain.start(by_approval)

    def _publish(self, name: str, subject: str, message: str, *, comment: str) -> sfn.CustomState:
        """A state that tells whoever subscribed to the topic; the message is an intrinsic function."""
        return call(
            self,
            name,
            "sns:publish",
            {
                "TopicArn": self._data.topic.topic_arn,
                "Subject": f"{self._settings.prefix}: {subject}",
                "Message.$": message,
            },
            comment=comment,
            failure=self._failure,
        )

    def _package(self, name: str, status: str, comment: str) -> sfn.CustomState:
        source = {"S3DataType": "S3Prefix", "CompressionType": "None", "S3Uri.$": "$.training.model_data"}

        def evaluation(file: str) -> str:
            folder = f"s3://{self._data.bucket.bucket_name}/models/{{}}/{{}}/evaluation"
            return f"States.Format('{folder}/{file}', $.request.run, $.training.job)"

        return call(
            self,
            name,
            "aws-sdk:sagemaker:createModelPackage",
            {
                "ModelPackageGroupName": self._settings.prefix,
                "ModelPackageDescription.$": "$.gate.message",
                "ModelApprovalStatus": status,
                "InferenceSpecification": {
                    "Containers": [{"Image": self._image, "ModelDataSource": {"S3DataSource": source}}],
                    "SupportedContentTypes": ["application/json"],
                    "SupportedResponseMIMETypes": ["application/json"],
                },
                "ModelMetrics": {
                    "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri.$": evaluation("metrics.json")}}
                },
                "MetadataProperties": {"GeneratedBy.$": "$.training.arn"},
                # Where the model comes from: what it was trained on, by what, and what it was compared with.
                "CustomerMetadataProperties": {
                    "run.$": "$.request.run",
                    "dataset.$": "$.request.dataset",
                    "source_language.$": "$.request.source_language",
                    "manifest.$": evaluation("manifest.json"),
                    "recipe.$": "$.request.recipe",
                    "base_model.$": "$.request.base_model",
                    "run_card.$": "States.Format('{}run_card.json', $.training.model_data)",
                    "deployed.$": "States.ArrayGetItem($.live.parts, 0)",
                    "report.$": "$.gate.report",
                    "golden.$": evaluation("golden.json"),
                },
            },
            comment=comment,
            result_selector={"arn.$": "$.ModelPackageArn"},
            result_path="$.package",
            failure=self._failure,
        )

    def _wait_for_release(self) -> sfn.Chain:
        release = self._settings.release
        polls = max(1, release.max_wait_minutes * 60 // release.poll_seconds)
        start = sfn.Pass(self, "Start waiting", parameters={"polls": 0}, result_path="$.wait")
        wait = sfn.Wait(self, "Wait for the release", time=sfn.WaitTime.duration(cdk.Duration.seconds(release.poll_seconds)))
        look = call(
            self,
            "Look at the release",
            "dynamodb:getItem",
            {"TableName": self._data.releases.table_name, "Key": {"id": {"S.$": "$.package.arn"}}, "ConsistentRead": True},
            comment="The deploy state machine writes here how it went",
            result_path="$.release",
            failure=self._failure,
        )
        count = sfn.Pass(
            self, "Count the look", parameters={"polls.$": "States.MathAdd($.wait.polls, 1)"}, result_path="$.wait"
        )
        status = "$.release.Item.status.S"
        tell = self._publish(
            "Tell of the release",
            "a model was released",
            "States.Format('{} {} Report: {}', $.package.arn, $.gate.message, $.gate.link)",
            comment="By what figures it came through, and where they stand",
        )
        released = tell.next(sfn.Succeed(self, "Released", comment="The endpoint serves the new model"))
        not_released = sfn.Fail(self, "Not released", error="NotReleased", cause_path="$.release.Item.reason.S")
        too_long = sfn.Fail(
            self,
            "Release takes too long",
            error="ReleaseTimedOut",
            cause=f"No release within {release.max_wait_minutes} minutes: see executions of {self._settings.prefix}-deploy.",
        )

        def when(value: str) -> sfn.Condition:
            return sfn.Condition.and_(sfn.Condition.is_present(status), sfn.Condition.string_equals(status, value))

        choice = sfn.Choice(self, "Is it released?")
        choice.when(when("live"), released).when(when("recorded"), released).when(when("failed"), not_released)
        choice.when(sfn.Condition.number_greater_than_equals("$.wait.polls", polls), too_long).otherwise(count)
        count.next(wait)
        return start.next(wait).next(look).next(choice)

    # ---------------------------------------------------------------- permissions

    def _allow(self, machine: LoggedStateMachine) -> None:
        stack, prefix = cdk.Stack.of(self), self._settings.prefix

        def arn(service: str, resource: str, name: str) -> str:
            return stack.format_arn(service=service, resource=resource, resource_name=name)

        machine.allow("lambda:InvokeFunction", on=[item.function.function_arn for item in self._functions.all()])
        for kind, path in (("Training", "training-job"), ("Processing", "processing-job")):
            # Step Functions tags the jobs it starts.
            actions = [f"sagemaker:{verb}{kind}Job" for verb in ("Create", "Describe", "Stop")]
            machine.allow(*actions, "sagemaker:AddTags", on=[arn("sagemaker", path, f"{prefix}-*")])
            # `.sync` hears of a job's end through a rule that Step Functions keeps under this name.
            machine.allow(
                "events:PutTargets",
                "events:PutRule",
                "events:DescribeRule",
                on=[arn("events", "rule", f"StepFunctionsGetEventsForSageMaker{kind}JobsRule")],
            )
        machine.allow(
            "iam:PassRole",
            on=[self._training_role.role_arn, self._processing_role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
        machine.allow(
            "sagemaker:CreateModelPackage",
            on=[arn("sagemaker", "model-package-group", prefix), arn("sagemaker", "model-package", f"{prefix}/*")],
        )
        machine.allow("ssm:GetParameter", on=[self._data.live_model.parameter_arn])
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
        machine.allow("states:DescribeExecution", "states:StopExecution", "states:RedriveExecution", on=[children])
        allow_objects(machine.role, self._data, read=["runs/"], write=["runs/"])
        # The map's result writer asks which parts of an upload are there.
        machine.allow("s3:ListMultipartUploadParts", on=[self._data.bucket.arn_for_objects("runs/*")])
        allow_table(machine.role, self._data, self._data.releases, "GetItem")
        allow_publish(machine.role, self._data)


def _mining_arguments(mining: Mining) -> list[str]:
    """The options of `ko-reranker mine`."""
    arguments = []
    for name, value in mining.model_dump(exclude_none=True).items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    return arguments


def _array(items: list[str]) -> str:
    """An intrinsic function of the states language that gives a list of literal strings."""
    return "States.Array({})".format(", ".join("'{}'".format(item.replace("\\", "\\\\").replace("'", "\\'")) for item in items))
