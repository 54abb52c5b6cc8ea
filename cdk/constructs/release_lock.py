"""One release at a time: a lock in a DynamoDB table, held by an execution and by nothing but a running one."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.states import FailureTail, call
from ko_reranker.settings import Settings

LOCK_ID = "lock"
_KEY = {"id": {"S": LOCK_ID}}
_CONFLICT = ["DynamoDB.ConditionalCheckFailedException"]


class ReleaseLock(Construct):
    """States that take the lock, wait for it, take it over from an execution that ended, and give it back.

    The lock has no time of its own: an execution that was aborted can't give it back, so whoever waits looks whether the
    holder still runs.

    Args:
        table: the name of the releases table.
        poll_seconds: how long to wait before asking again.
    """

    def __init__(self, scope: Construct, construct_id: str, *, table: str, poll_seconds: int) -> None:
        super().__init__(scope, construct_id)
        self._table, self._poll_seconds = table, poll_seconds

    def take(self, refused: FailureTail) -> sfn.CustomState:
        """Return the state that takes the lock; what is chained to it runs with the lock held."""
        mine = {":me": {"S.$": "$$.Execution.Id"}}
        take = call(
            self,
            "Take the lock",
            "dynamodb:putItem",
            {
                "TableName": self._table,
                "Item": {**_KEY, "execution": {"S.$": "$$.Execution.Id"}},
                # A redriven execution finds its own lock.
                "ConditionExpression": "attribute_not_exists(id) OR #e = :me",
                "ExpressionAttributeNames": {"#e": "execution"},
                "ExpressionAttributeValues": mine,
            },
            comment="One release at a time",
        )
        wait = sfn.Wait(
            self, "Wait for the other release", time=sfn.WaitTime.duration(cdk.Duration.seconds(self._poll_seconds))
        )
        take.add_catch(self._check_holder(refused, wait), errors=_CONFLICT, result_path="$.error")
        take.add_catch(refused.start, result_path="$.error")
        wait.next(take)
        return take

    def give_back(self, name: str) -> sfn.Chain:
        """Return a state, of the given name, that gives the lock back."""
        state = self._delete(name, "$$.Execution.Id", "The next release may start", retry_on=["States.TaskFailed"])
        return sfn.Chain.start(state)

    def _check_holder(self, refused: FailureTail, wait: sfn.Wait) -> sfn.CustomState:
        holder = call(
            self,
            "Who holds the lock?",
            "dynamodb:getItem",
            {"TableName": self._table, "Key": _KEY, "ConsistentRead": True},
            comment="Another release, or one that was aborted and could not give it back",
            result_path="$.lock",
            failure=refused,
        )
        execution = call(
            self,
            "Describe the holder's execution",
            "aws-sdk:sfn:describeExecution",
            {"ExecutionArn.$": "$.lock.Item.execution.S"},
            comment="Only a running execution keeps its lock",
            result_selector={"status.$": "$.Status"},
            result_path="$.holder",
            failure=refused,
        )
        remove = self._delete("Remove the stale lock", "$.lock.Item.execution.S", "Its holder ended without giving it back")
        remove.add_catch(wait, errors=_CONFLICT, result_path="$.error")
        remove.add_catch(refused.start, result_path="$.error")
        held, running = sfn.Choice(self, "Is it still held?"), sfn.Choice(self, "Is the holder still running?")
        holder.next(held)
        held.when(sfn.Condition.is_present("$.lock.Item"), execution).otherwise(wait)
        execution.next(running)
        running.when(sfn.Condition.string_equals("$.holder.status", "RUNNING"), wait).otherwise(remove)
        remove.next(wait)
        return holder

    def _delete(self, name: str, holder: str, comment: str, retry_on: list[str] | None = None) -> sfn.CustomState:
        parameters = {
            "TableName": self._table,
            "Key": _KEY,
            "ConditionExpression": "#e = :holder",
            "ExpressionAttributeNames": {"#e": "execution"},
            "ExpressionAttributeValues": {":holder": {"S.$": holder}},
        }
        return call(self, name, "dynamodb:deleteItem", parameters, comment=comment, retry_on=retry_on or ())


def release_executions(scope: Construct, settings: Settings) -> str:
    """The ARN of all executions that may hold the lock."""
    return cdk.Stack.of(scope).format_arn(
        service="states",
        resource="execution",
        resource_name=f"{settings.prefix}-deploy:*",
        arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
    )
