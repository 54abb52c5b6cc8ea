"""The deploy state machine: an approved model package becomes the live model, or everything stays as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.hosting import allow_rollback_alarms
from cdk.constructs.live_model import LiveModel
from cdk.constructs.model_package import ModelPackage
from cdk.constructs.permissions import OWN_NAMES
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.release_lock import ReleaseLock, release_executions
from cdk.constructs.release_record import ReleaseRecord
from cdk.constructs.rollover import RollOver
from cdk.constructs.running_model import RunningModel, allow_comparing
from cdk.constructs.states import FailureTail, LoggedStateMachine, look_up_live_model
from cdk.constructs.stores import NoticeTopic, RecordTable
from ko_reranker.settings import Settings


class Deployment(Construct):
    """Lock, roll the endpoint over, test it, record what is live, notify.

    Input: ``{"model_package": ARN}``, from the approval event or from a person, or ``{"model_package": "live"}`` to have the
    endpoint checked, and the recorded model put back where it runs another. Where serving is switched off the model is
    recorded as the one that the next deploy of the stack starts the endpoint with.

    Args:
        smoke_test: the function that asks the endpoint golden queries.
        endpoint_role: what the endpoint's container may do.
        first_config_arn: the endpoint configuration that the stack itself made; None where serving is switched off.
        first_model_arn: the model of that configuration.
        vpc: where the endpoint runs, as SageMaker's ``VpcConfig``; None for a network of SageMaker's own.
        capture: which calls are stored, see `hosting.data_capture`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        live_model: LiveModel,
        releases: RecordTable,
        topic: NoticeTopic,
        smoke_test: PythonFunction,
        endpoint_role: iam.Role,
        first_config_arn: str | None,
        first_model_arn: str | None,
        vpc: Mapping[str, Sequence[str]] | None = None,
        capture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._live_model, self._releases, self._topic = settings, live_model, releases, topic
        self._smoke_test, self._endpoint_role, self._vpc = smoke_test, endpoint_role, vpc
        self._capture = capture
        self._first_config_arn, self._first_model_arn = first_config_arn, first_model_arn
        self._running = RunningModel(self, "Running", table=releases.name, topic_arn=topic.arn, prefix=settings.prefix)
        self._record = ReleaseRecord(
            self, "Record", prefix=settings.prefix, live_model=live_model, releases=releases, topic=topic
        )
        self._lock = ReleaseLock(self, "Lock", table=releases.name, poll_seconds=settings.release.poll_seconds)
        machine = LoggedStateMachine(
            self,
            "Deploy",
            name=f"{settings.prefix}-deploy",
            comment="Make an approved model package the live model",
            definition=self._definition(),
            timeout=cdk.Duration.hours(6),
            tracing=settings.recording.tracing,
        )
        self.machine = machine.machine
        self._allow(machine)

    def _definition(self) -> sfn.Chain:
        # Before the lock is held there is nothing to give back.
        refused = FailureTail(self, "Refusal", error="NotDeployed", suffix=" (without the lock)")
        failed = FailureTail(
            self,
            "Failure",
            error="NotDeployed",
            before_failing=self._record.failure().next(self._lock.give_back("Give the lock back")),
        )
        check = sfn.Choice(self, "Is a model package named?")
        invalid = sfn.Fail(
            self,
            "No model package",
            error="InvalidInput",
            cause=f'The input must be {{"model_package": "arn:…:model-package/{self._settings.prefix}/…"}}.',
        )
        named = sfn.Condition.and_(
            sfn.Condition.is_present("$.model_package"),
            sfn.Condition.or_(
                sfn.Condition.string_equals("$.model_package", "live"),
                sfn.Condition.string_matches("$.model_package", f"arn:*:sagemaker:*:model-package/{self._settings.prefix}/*"),
            ),
        )
        take_lock = self._lock.take(refused)
        check.when(named, take_lock).otherwise(invalid)

        describe, package = ModelPackage(self, "Package").read(failed)
        already = self._record.release("It is live already", "live").next(self._lock.give_back("Unlock, nothing to do"))
        already = already.next(sfn.Succeed(self, "Already live"))
        take_lock.next(look_up_live_model(self, self._live_model, failed)).next(self._which(describe))
        package.next(self._roll_over(failed, already) if self._settings.serving.enabled else self._record_only(failed, already))
        return sfn.Chain.start(check)

    def _which(self, describe: sfn.CustomState) -> sfn.Choice:
        """The package that is asked for by name, or the recorded one, where the endpoint is only to be checked."""
        by_name = sfn.Pass(self, "Use the named package", result=sfn.Result.from_string("release"), result_path="$.asked")
        only_check = sfn.Pass(self, "Only check the endpoint", result=sfn.Result.from_string("check"), result_path="$.asked")
        recorded = sfn.Pass(self, "Use the recorded package", input_path="$.live.parts[0]", result_path="$.model_package")
        nothing = self._lock.give_back("Unlock, none is recorded").next(sfn.Succeed(self, "None is recorded"))
        which = sfn.Choice(self, "Which model is asked for?")
        by_record = sfn.Condition.string_equals("$.model_package", "live")
        which.when(sfn.Condition.and_(by_record, sfn.Condition.string_equals("$.live.parts[0]", "none")), nothing)
        which.when(by_record, only_check).otherwise(by_name)
        only_check.next(recorded).next(describe)
        by_name.next(describe)
        return which

    def _roll_over(self, failed: FailureTail, already: sfn.Chain) -> sfn.CustomState:
        rollover = RollOver(
            self,
            "RollOver",
            settings=self._settings,
            smoke_test=self._smoke_test,
            endpoint_role=self._endpoint_role,
            vpc=self._vpc,
            capture=self._capture,
        )
        return rollover.states(
            failed,
            unless=lambda other: self._running.compare(failed, same=already, other=other),
            then=self._record_live("Record the live model", failed, "live", "Deployed"),
        )

    def _record_only(self, failed: FailureTail, already: sfn.Chain) -> sfn.Choice:
        current = sfn.Choice(self, "Is it live already?")
        is_recorded = sfn.Condition.string_equals_json_path("$.live.parts[0]", "$.model_package")
        record = self._record_live("Record the model to start with", failed, "recorded", "Recorded")
        return current.when(is_recorded, already).otherwise(record)

    def _record_live(self, name: str, failed: FailureTail, status: str, ending: str) -> sfn.CustomState:
        live = self._record.live(name, failed)
        chain = live.next(self._record.release(f"Record the release as {status}", status, failed))
        if status == "live":
            chain = chain.next(self._running.forget(failed))
        chain = chain.next(self._record.notice(status, failed))
        chain.next(self._lock.give_back("Unlock")).next(sfn.Succeed(self, ending))
        return live

    # ---------------------------------------------------------------- permissions

    def _allow(self, machine: LoggedStateMachine) -> None:
        stack, prefix = cdk.Stack.of(self), self._settings.prefix

        def arn(resource: str, name: str) -> str:
            return stack.format_arn(service="sagemaker", resource=resource, resource_name=name)

        self._releases.grant(machine.role, "GetItem", "PutItem", "DeleteItem")
        self._topic.grant_publish(machine.role)
        self._live_model.grant_read_write(machine.role)
        machine.allow("sagemaker:DescribeModelPackage", on=[arn("model-package", f"{prefix}/*")], because=OWN_NAMES)
        machine.allow("states:DescribeExecution", on=[release_executions(self, self._settings)], because=OWN_NAMES)
        machine.allow("lambda:InvokeFunction", on=[self._smoke_test.function.function_arn])
        if not self._settings.serving.enabled:
            return
        endpoint = arn("endpoint", prefix)
        models, configs = arn("model", f"{prefix}-*"), arn("endpoint-config", f"{prefix}-*")
        machine.allow("sagemaker:CreateModel", on=[models], because=OWN_NAMES)
        machine.allow("sagemaker:CreateEndpointConfig", on=[configs, models], because=OWN_NAMES)
        machine.allow("sagemaker:AddTags", on=[models, configs], because=OWN_NAMES)
        # The configuration to go back to may be the one that CloudFormation made and named.
        first = [self._first_config_arn] if self._first_config_arn else []
        machine.allow("sagemaker:UpdateEndpoint", on=[endpoint, configs, *first], because=OWN_NAMES)
        machine.allow("sagemaker:DescribeEndpoint", on=[endpoint])
        first_model = [self._first_model_arn] if self._first_model_arn else []
        allow_comparing(machine, configs=[configs, *first], models=[models, *first_model])
        allow_rollback_alarms(machine.role, self._settings)
        machine.allow(
            "iam:PassRole",
            on=[self._endpoint_role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
