"""Pieces that both state machines are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from cdk.constructs.live_model import LiveModel
from cdk.constructs.permissions import NO_RESOURCE, allow

# What the services answer under load or in a bad moment; everything else is a defect or a person's to solve.
_PASSING_LAMBDA_ERRORS = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]
# One process that died or was never heard of again: memory, a host that went, a connection that hung. Lambda.Unknown is what
# older runtimes call the others (https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html).
_LOST_LAMBDA_ERRORS = [
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Sandbox.Timedout",
]


class FailureTail(Construct):
    """The end of every failure: find the sentence that says why, do what must be done, and fail with that sentence.

    A caught error's ``Cause`` is text, or JSON in which a Lambda puts ``errorMessage`` and a SageMaker job ``FailureReason`` or
    ``ExitMessage``. Whoever looks at the execution gets the sentence, not the JSON.

    Args:
        error: the error's name as the execution shows it.
        before_failing: states to run between finding the reason, at ``$.failure.reason``, and failing.
        suffix: ends the states' names, where one state machine has two tails.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        error: str,
        before_failing: sfn.Chain | None = None,
        suffix: str = "",
    ) -> None:
        super().__init__(scope, construct_id)
        self._suffix = suffix
        fail = sfn.Fail(self, "Stopped", state_name=f"Stopped{suffix}", error=error, cause_path="$.failure.reason")
        self._ending: sfn.IChainable = before_failing.next(fail) if before_failing else fail
        as_is = self._reason("The reason as it stands", "$.error.Cause")
        found = sfn.Choice(self, "Whose", state_name=f"Whose reason is it?{suffix}")
        for name, key in (
            ("The function's own sentence", "errorMessage"),
            ("The job's own sentence", "ExitMessage"),
            ("The job's failure reason", "FailureReason"),
        ):
            path = f"$.failure.cause.{key}"
            found.when(sfn.Condition.is_present(path), self._reason(name, path))
        found.otherwise(as_is)
        parsed = sfn.Pass(
            self,
            "Read",
            state_name=f"Read the reason{suffix}",
            parameters={"cause.$": "States.StringToJson($.error.Cause)"},
            result_path="$.failure",
        )
        parsed.next(found)
        self.start = sfn.Choice(self, "Why", state_name=f"Why did it stop?{suffix}")
        has_cause = sfn.Condition.is_present("$.error.Cause")
        # A time-out comes with its name alone.
        self.start.when(sfn.Condition.not_(has_cause), self._reason("Only the error's name", "$.error.Error"))
        self.start.when(sfn.Condition.string_matches("$.error.Cause", "{*"), parsed).otherwise(as_is)

    def _reason(self, name: str, path: str) -> sfn.Pass:
        state = sfn.Pass(self, name, state_name=f"{name}{self._suffix}", parameters={"reason.$": path}, result_path="$.failure")
        state.next(self._ending)
        return state


def invoke(
    scope: Construct,
    name: str,
    function: lambda_.IFunction,
    payload: Mapping[str, Any],
    *,
    result_path: str,
    failure: FailureTail | None,
    comment: str,
    result_selector: Mapping[str, Any] | None = None,
) -> tasks.LambdaInvoke:
    """A state that calls a function, tries again in a bad moment of the service, and hands failures to the tail.

    A function whose process died is called again, twice: each has to be one that may run any number of times.
    """
    state = tasks.LambdaInvoke(
        scope,
        name,
        state_name=name,
        comment=comment,
        lambda_function=function,
        payload=sfn.TaskInput.from_object(dict(payload)),
        payload_response_only=True,
        result_selector=dict(result_selector) if result_selector else None,
        result_path=result_path,
        retry_on_service_exceptions=False,
    )
    state.add_retry(
        errors=_PASSING_LAMBDA_ERRORS,
        interval=cdk.Duration.seconds(2),
        max_attempts=6,
        backoff_rate=2,
        jitter_strategy=sfn.JitterType.FULL,
    )
    state.add_retry(
        errors=_LOST_LAMBDA_ERRORS,
        interval=cdk.Duration.seconds(5),
        max_attempts=2,
        backoff_rate=2,
        jitter_strategy=sfn.JitterType.FULL,
    )
    if failure:
        state.add_catch(failure.start, result_path="$.error")
    return state


def call(
    scope: Construct,
    name: str,
    resource: str,
    parameters: Mapping[str, Any],
    *,
    comment: str,
    result_path: str | None = None,
    result_selector: Mapping[str, Any] | None = None,
    failure: FailureTail | None = None,
    retry_on: Sequence[str] = (),
    max_attempts: int = 4,
    timeout_seconds: int | None = None,
) -> sfn.CustomState:
    """A state that calls a service, written as in the Step Functions documentation.

    Args:
        resource: what follows ``arn:aws:states:::``, such as ``aws-sdk:ssm:getParameter``.
        parameters: the request; keys ending in ``.$`` are paths or intrinsic functions.
        result_path: where the result goes; None discards it.
    """
    definition: dict[str, Any] = {
        "Type": "Task",
        "Comment": comment,
        "Resource": f"arn:{cdk.Aws.PARTITION}:states:::{resource}",
        "Parameters": dict(parameters),
        "ResultPath": result_path or sfn.JsonPath.DISCARD,
    }
    if result_selector:
        definition["ResultSelector"] = dict(result_selector)
    if timeout_seconds:
        definition["TimeoutSeconds"] = timeout_seconds
    state = sfn.CustomState(scope, name, state_json=definition)
    if retry_on:
        state.add_retry(
            errors=list(retry_on),
            interval=cdk.Duration.seconds(5),
            max_attempts=max_attempts,
            backoff_rate=2,
            jitter_strategy=sfn.JitterType.FULL,
        )
    if failure:
        state.add_catch(failure.start, result_path="$.error")
    return state


def look_up_live_model(scope: Construct, live_model: LiveModel, failure: FailureTail) -> sfn.CustomState:
    """A state that puts package ARN, model data URI and image of the live model into ``$.live.parts``."""
    return call(
        scope,
        "Look up the live model",
        "aws-sdk:ssm:getParameter",
        {"Name": live_model.name},
        comment="What serves now; none before the first model",
        result_selector={"parts.$": "States.StringSplit($.Parameter.Value, ',')"},
        result_path="$.live",
        failure=failure,
        retry_on=["States.TaskFailed"],
        max_attempts=2,
    )


_TRACING = ("xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets")


class LoggedStateMachine(Construct):
    """A standard state machine with its own role and a log of every state, without the states' data."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        definition: sfn.IChainable,
        timeout: cdk.Duration,
        comment: str,
        tracing: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        log_group = logs.LogGroup(
            self,
            "Logs",
            log_group_name=f"/aws/vendedlogs/states/{name}",  # this prefix keeps the log's resource policy short
            retention=logs.RetentionDays.THREE_MONTHS,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        self.machine = sfn.StateMachine(
            self,
            "Machine",
            state_machine_name=name,
            comment=comment,
            # The CDK's own grants (every version of a function, the whole bucket) are wider than what the states need, so
            # that all there is to allow is allowed below and by the owner.
            role=self.role.without_policy_updates(),
            definition_body=sfn.DefinitionBody.from_chainable(definition),
            timeout=timeout,
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=False),
            tracing_enabled=tracing,
        )
        self.machine.node.try_remove_child("DistributedMapPolicy")
        # Step Functions checks at creation that the role may keep its rules for `.sync` and deliver its log.
        self.machine.node.add_dependency(self.role)
        delivery = ("Create", "Get", "Update", "Delete")
        self.allow(
            *[f"logs:{verb}LogDelivery" for verb in delivery],
            "logs:ListLogDeliveries",
            "logs:PutResourcePolicy",
            "logs:DescribeResourcePolicies",
            "logs:DescribeLogGroups",
            *(_TRACING if tracing else ()),
            on=["*"],
            because=NO_RESOURCE,
        )

    def allow(
        self, *actions: str, on: Sequence[str], conditions: Mapping[str, Any] | None = None, because: str | None = None
    ) -> None:
        """Let the state machine do ``actions`` on the resources ``on`` (ARNs), see `permissions.allow`."""
        allow(self.role, *actions, on=on, conditions=conditions, because=because)
