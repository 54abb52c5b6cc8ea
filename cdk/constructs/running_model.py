"""What the endpoint really runs, whatever the record says: compared before every release, and whenever the endpoint changed."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.permissions import OWN_NAMES
from cdk.constructs.states import FailureTail, LoggedStateMachine, call

_CONFLICT = ["DynamoDB.ConditionalCheckFailedException"]
# The configuration that ran when the recorded model was put back for it, so that it is tried once and not for ever.
_ITEM = {"id": {"S.$": "States.Format('drift {}', $.before.EndpointConfigName)"}}


class RunningModel(Construct):
    """States that look through the endpoint's configuration at its model, and tell of one that isn't the recorded one.

    A `cdk deploy` that fails after it updated the endpoint puts back the configuration that CloudFormation knows, with whatever
    model it was made for; one that began before a release ends with the model from before it. The record says the newer one all
    the while.

    Args:
        table: the name of the releases table.
        topic_arn: who is told.
        prefix: the stage's, which is the endpoint's name.
    """

    def __init__(self, scope: Construct, construct_id: str, *, table: str, topic_arn: str, prefix: str) -> None:
        super().__init__(scope, construct_id)
        self._table, self._topic_arn, self._prefix = table, topic_arn, prefix

    def compare(self, failed: FailureTail, *, same: sfn.IChainable, other: sfn.IChainable) -> sfn.CustomState:
        """Return the first state of the comparison with ``$.package``, once the endpoint's description is in ``$.before``.

        Args:
            same: goes on where the endpoint runs the package and the record says so.
            other: goes on where it runs another.
        """
        config = call(
            self,
            "Describe its configuration",
            "aws-sdk:sagemaker:describeEndpointConfig",
            {"EndpointConfigName.$": "$.before.EndpointConfigName"},
            comment="Which model it was made for",
            result_selector={"model.$": "$.ProductionVariants[0].ModelName"},
            result_path="$.runs",
            retry_on=["States.ALL"],
            max_attempts=3,
        )
        model = call(
            self,
            "Describe its model",
            "aws-sdk:sagemaker:describeModel",
            {"ModelName.$": "$.runs.model"},
            comment="Its image and its data",
            result_selector={
                "image.$": "$.PrimaryContainer.Image",
                "data.$": "$.PrimaryContainer.ModelDataSource.S3DataSource.S3Uri",
            },
            result_path="$.runs",
            retry_on=["States.ALL"],
            max_attempts=3,
        )
        checking = sfn.Condition.string_equals("$.asked", "check")
        unknown = sfn.Choice(self, "Is it only checked?")
        cause = "States.Format('The model of the endpoint {} cannot be found out: {}', $.before.EndpointName, $.error.Cause)"
        untold = sfn.Pass(self, "Its model is unknown", parameters={"Cause.$": cause}, result_path="$.error")
        unknown.when(checking, untold.next(failed.start)).otherwise(other)
        for state in (config, model):
            state.add_catch(unknown, result_path="$.error")
        equal = sfn.Condition.string_equals_json_path
        runs = sfn.Choice(self, "Does it run the package?")
        runs.when(
            sfn.Condition.and_(
                equal("$.runs.data", "$.package.data"),
                equal("$.runs.image", "$.package.image"),
                equal("$.live.parts[0]", "$.model_package"),
            ),
            same,
        )
        runs.when(checking, self._tell(failed, other)).otherwise(other)
        config.next(model).next(runs)
        return config

    def _tell(self, failed: FailureTail, other: sfn.IChainable) -> sfn.CustomState:
        note = call(
            self,
            "Record what it runs",
            "dynamodb:putItem",
            {
                "TableName": self._table,
                "Item": {**_ITEM, "execution": {"S.$": "$$.Execution.Id"}},
                "ConditionExpression": "attribute_not_exists(id)",
            },
            comment="The recorded model is put back once for a configuration",
        )
        cause = (
            "States.Format('The endpoint {} runs another model than the recorded {}, which was put back before and did not "
            "stay: see the last executions, then ko-reranker models rollback.', $.before.EndpointName, $.model_package)"
        )
        again = sfn.Pass(self, "It was put back before", parameters={"Cause.$": cause}, result_path="$.error")
        note.add_catch(again.next(failed.start), errors=_CONFLICT, result_path="$.error")
        note.add_catch(failed.start, result_path="$.error")
        tell = call(
            self,
            "Notify: another model runs",
            "sns:publish",
            {
                "TopicArn": self._topic_arn,
                "Subject": f"{self._prefix}: the endpoint ran another model",
                "Message.$": (
                    "States.Format('The endpoint {} ran {} and not the recorded model, as after a cdk deploy that failed or "
                    "met a release. The recorded one, {}, is put back.', $.before.EndpointName, $.runs.data, $.model_package)"
                ),
            },
            comment="Whoever subscribed to the topic",
            failure=failed,
        )
        note.next(tell).next(other)
        return note

    def forget(self, failed: FailureTail) -> sfn.CustomState:
        """Return the state that ends the note: the recorded model runs."""
        return call(
            self,
            "Forget what it ran",
            "dynamodb:deleteItem",
            {"TableName": self._table, "Key": _ITEM},
            comment="It may be put back again another time",
            failure=failed,
        )


def allow_comparing(machine: LoggedStateMachine, *, configs: Sequence[str], models: Sequence[str]) -> None:
    """Let a state machine look at what endpoint configurations and models (ARNs) are made of."""
    machine.allow("sagemaker:DescribeEndpointConfig", on=configs, because=OWN_NAMES)
    machine.allow("sagemaker:DescribeModel", on=models, because=OWN_NAMES)
