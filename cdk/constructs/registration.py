"""States of the retraining: from a judged model to a package in the registry, and to its release."""

from __future__ import annotations

from typing import Literal

import aws_cdk as cdk
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.states import FailureTail, call
from cdk.constructs.stores import DataBucket, NoticeTopic, RecordTable
from ko_reranker.settings import Settings


class Registration(Construct):
    """Register a model as rejected, or for approval, or as approved, and then wait for its release.

    Args:
        releases: where the deploy state machine writes how a release went.
        topic: tells people.
        image: the URI of the container image.
        failure: where failures go.

    Attributes:
        start: reads ``$.request``, ``$.training``, ``$.live`` and ``$.gate``.
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
        image: str,
        failure: FailureTail,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._bucket, self._topic, self._releases = settings, bucket, topic, releases
        self._image, self._failure = image, failure
        reject = self._package("Register as rejected", "Rejected", "Kept with the reason, never deployed")
        reject.next(sfn.Fail(self, "Not good enough", error="NotGoodEnough", cause_path="$.gate.reason"))
        self.start = sfn.Choice(self, "Good enough to release?")
        self.start.when(sfn.Condition.boolean_equals("$.gate.passed", False), reject).otherwise(self._approve())

    def _approve(self) -> sfn.Choice:
        automatic = self._package("Register as approved", "Approved", "The approval event starts the deploy state machine")
        automatic.next(self._wait_for_release())
        pending = self._package("Register for approval", "PendingManualApproval", "A person approves it in the registry")
        ask = self._publish(
            "Ask for approval",
            "a model waits for approval",
            "States.Format('{} Report: {} Approve it to deploy it: ko-reranker models approve {}', "
            "$.gate.message, $.gate.link, $.package.arn)",
            comment="Deployed when it is approved, by whom and whenever",
        )
        pending.next(ask).next(sfn.Succeed(self, "Waiting for approval"))
        by_approval = sfn.Choice(self, "Approve automatically?")
        return by_approval.when(sfn.Condition.string_equals("$.request.approval", "automatic"), automatic).otherwise(pending)

    def _publish(self, name: str, subject: str, message: str, *, comment: str) -> sfn.CustomState:
        """A state that tells whoever subscribed to the topic; the message is an intrinsic function."""
        return call(
            self,
            name,
            "sns:publish",
            {"TopicArn": self._topic.arn, "Subject": f"{self._settings.prefix}: {subject}", "Message.$": message},
            comment=comment,
            failure=self._failure,
            # A notice that comes twice is better than a finished training that ends for want of one.
            retry_on=["States.TaskFailed"],
            max_attempts=2,
        )

    def _package(
        self, name: str, status: Literal["Approved", "PendingManualApproval", "Rejected"], comment: str
    ) -> sfn.CustomState:
        source = {"S3DataType": "S3Prefix", "CompressionType": "None", "S3Uri.$": "$.training.model_data"}

        def evaluation(file: str) -> str:
            folder = f"s3://{self._bucket.name}/models/{{}}/{{}}/evaluation"
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
        start = sfn.Pass(self, "Start waiting", parameters={"polls": 0}, result_path="$.wait")
        wait = sfn.Wait(self, "Wait for the release", time=sfn.WaitTime.duration(cdk.Duration.seconds(release.poll_seconds)))
        read = call(
            self,
            "Read the release record",
            "dynamodb:getItem",
            {"TableName": self._releases.name, "Key": {"id": {"S.$": "$.package.arn"}}, "ConsistentRead": True},
            comment="The deploy state machine writes here how it went",
            result_path="$.release",
            failure=self._failure,
        )
        return start.next(wait).next(read).next(self._is_it_released(wait))

    def _is_it_released(self, wait: sfn.Wait) -> sfn.Choice:
        release = self._settings.release
        polls = max(1, release.max_wait_minutes * 60 // release.poll_seconds)
        status = "$.release.Item.status.S"
        count = sfn.Pass(
            self, "Count the poll", parameters={"polls.$": "States.MathAdd($.wait.polls, 1)"}, result_path="$.wait"
        )
        count.next(wait)
        tell = self._publish(
            "Notify: released",
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
        return choice.when(sfn.Condition.number_greater_than_equals("$.wait.polls", polls), too_long).otherwise(count)
