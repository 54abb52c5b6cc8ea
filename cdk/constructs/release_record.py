"""What a release came to, written where the next deploy and the waiting retraining read it."""

from __future__ import annotations

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.live_model import LiveModel
from cdk.constructs.states import FailureTail, call
from cdk.constructs.stores import NoticeTopic, RecordTable


class ReleaseRecord(Construct):
    """States that write the parameter of the live model and a package's item in the releases table, and tell the topic."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        prefix: str,
        live_model: LiveModel,
        releases: RecordTable,
        topic: NoticeTopic,
    ) -> None:
        super().__init__(scope, construct_id)
        self._prefix, self._live_model, self._releases, self._topic = prefix, live_model, releases, topic

    def live(self, name: str, failed: FailureTail) -> sfn.CustomState:
        """Return the state that makes the package the live model, or the one that serving starts with."""
        return call(
            self,
            name,
            "aws-sdk:ssm:putParameter",
            {
                "Name": self._live_model.name,
                "Value.$": "States.Format('{},{},{}', $.model_package, $.package.data, $.package.image)",
                "Type": "StringList",
                "Overwrite": True,
            },
            comment="The serving stack reads it at every deploy",
            failure=failed,
        )

    def notice(self, status: str, failed: FailureTail) -> sfn.CustomState:
        """Return the state that tells of a model that is ``live``, or ``recorded`` for serving to start with."""
        verb = "is live" if status == "live" else "is chosen, and serving starts with it once serving.enabled is true"
        return call(
            self,
            f"Notify: {status}",
            "sns:publish",
            {
                "TopicArn": self._topic.arn,
                "Subject": f"{self._prefix}: model {status}",
                "Message.$": f"States.Format('{{}} {verb}. Data: {{}}', $.model_package, $.package.data)",
            },
            comment="Whoever subscribed to the topic",
            failure=failed,
        )

    def release(self, name: str, status: str, failed: FailureTail | None = None) -> sfn.CustomState:
        """Return the state that writes the package's item."""
        return self._item(name, {"status": {"S": status}}, failed)

    def failure(self) -> sfn.CustomState:
        """Return the state that writes it with the reason of a failure, at ``$.failure.reason``."""
        return self._item("Record the failure", {"status": {"S": "failed"}, "reason": {"S.$": "$.failure.reason"}}, None)

    def _item(self, name: str, outcome: dict[str, dict[str, str]], failed: FailureTail | None) -> sfn.CustomState:
        return call(
            self,
            name,
            "dynamodb:putItem",
            {
                "TableName": self._releases.name,
                "Item": {
                    "id": {"S.$": "$.model_package"},
                    **outcome,
                    "execution": {"S.$": "$$.Execution.Id"},
                    "at": {"S.$": "$$.State.EnteredTime"},
                },
            },
            comment="The retraining that waits for this release reads it",
            failure=failed,
        )
