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
from cdk.constructs.presence import Presence
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.release_lock import ReleaseLock, release_executions
from cdk.constructs.release_record import ReleaseRecord
from cdk.constructs.rollover import IS_AWAY, STAYS, RollOver
from cdk.constructs.running_model import RunningModel, allow_comparing
from cdk.constructs.states import FailureTail, LoggedStateMachine, look_up_live_model
from cdk.constructs.stores import NoticeTopic, RecordTable
from ko_reranker.settings import Settings


class Deployment(Construct):
    """Lock, roll the endpoint over, test it, record what is live, notify.

    Input: ``{"model_package": ARN}``, from the approval event or from a person, or ``{"model_package": "live"}`` to have the
    endpoint checked, and the recorded model put back where it runs another. Where serving is switched off the model is
    recorded as the one that the next deploy of the stack starts the endpoint with.

    ``{"endpoint": "off"}`` takes the endpoint away, ``{"endpoint": "on"}`` brings it back with the recorded model. A release
    while it is away creates it for the test, and takes it away again.

    Args:
        policy_name: of the endpoint's scaling policy; None where serving is switched off.
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
        policy_name: str | None,
        vpc: Mapping[str, Sequence[str]] | None = None,
        capture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._live_model, self._releases, self._topic = settings, live_model, releases, topic
        self._smoke_test, self._endpoint_role, self._vpc = smoke_test, endpoint_role, vpc
        self._capture = capture
        self._first_config_arn, self._first_model_arn = first_config_arn, first_model_arn
        self._presence = Presence(self, "Presence", settings=settings, policy_name=policy_name) if policy_name else None
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
            before_failing=self._record_failure(),
        )
        check = sfn.Choice(self, "Is a model package named?")
        invalid = sfn.Fail(
            self,
            "No model package",
            error="InvalidInput",
            cause=(
                f'The input must be {{"model_package": "arn:…:model-package/{self._settings.prefix}/…"}}'
                + (', or {"endpoint": "off"} or {"endpoint": "on"}.' if self._presence else ".")
            ),
        )
        named = sfn.Condition.and_(
            sfn.Condition.is_present("$.model_package"),
            sfn.Condition.or_(
                sfn.Condition.string_equals("$.model_package", "live"),
                sfn.Condition.string_matches("$.model_package", f"arn:*:sagemaker:*:model-package/{self._settings.prefix}/*"),
            ),
        )
        take_lock = self._lock.take(refused)
        check.when(named, take_lock)
        if self._presence:
            recorded = sfn.Pass(
                self,
                "Switch the endpoint",
                parameters={"endpoint.$": "$.endpoint", "model_package": "live"},
            )
            check.when(sfn.Condition.or_(_asks("off"), _asks("on")), recorded)
            recorded.next(take_lock)
        check.otherwise(invalid)

        describe, package = ModelPackage(self, "Package").read(failed)
        already = self._record.release("It is live already", "live").next(self._lock.give_back("Unlock, nothing to do"))
        already = already.next(sfn.Succeed(self, "Already live"))
        take_lock.next(look_up_live_model(self, self._live_model, failed)).next(self._which(failed, describe))
        package.next(self._roll_over(failed, already, self._presence) if self._presence else self._record_only(failed, already))
        return sfn.Chain.start(check)

    def _record_failure(self) -> sfn.Chain:
        """What a release failed with is written down; of the endpoint's coming and going the execution tells."""
        unlock = self._lock.give_back("Give the lock back")
        record = self._record.failure()
        if not self._presence:
            return record.next(unlock)
        whose = sfn.Choice(self, "Was it a release?")
        whose.when(sfn.Condition.is_present("$.endpoint"), unlock).otherwise(record.next(unlock))
        return sfn.Chain.custom(whose, unlock.end_states, unlock)

    def _unlocked(self, ending: str) -> sfn.Chain:
        return self._lock.give_back(f"Unlock: {ending}").next(sfn.Succeed(self, ending))

    def _which(self, failed: FailureTail, describe: sfn.CustomState) -> sfn.Choice:
        """The package that is asked for by name, or the recorded one, where the endpoint is only to be checked."""
        by_name = sfn.Pass(self, "Use the named package", result=sfn.Result.from_string("release"), result_path="$.asked")
        only_check = sfn.Pass(self, "Only check the endpoint", result=sfn.Result.from_string("check"), result_path="$.asked")
        recorded = sfn.Pass(self, "Use the recorded package", input_path="$.live.parts[0]", result_path="$.model_package")
        nothing = self._lock.give_back("Unlock, none is recorded").next(sfn.Succeed(self, "None is recorded"))
        which = sfn.Choice(self, "Which model is asked for?")
        by_record = sfn.Condition.string_equals("$.model_package", "live")
        none_recorded = sfn.Condition.and_(by_record, sfn.Condition.string_equals("$.live.parts[0]", "none"))
        if self._presence:
            off, on = (sfn.Condition.and_(by_record, _asks(what)) for what in ("off", "on"))
            no_model = sfn.Pass(
                self,
                "No model to bring back",
                parameters={"Cause": "No model package is recorded as live: an endpoint could not be brought back with one."},
                result_path="$.error",
            )
            which.when(sfn.Condition.and_(none_recorded, sfn.Condition.is_present("$.endpoint")), no_model)
            which.when(off, self._presence.take_away(failed, unlocked=self._unlocked))
            back = sfn.Pass(self, "Recreate the endpoint", result=sfn.Result.from_string("on"), result_path="$.asked")
            which.when(on, back)
            no_model.next(failed.start)
            back.next(recorded)
        which.when(none_recorded, nothing)
        which.when(by_record, only_check).otherwise(by_name)
        only_check.next(recorded).next(describe)
        by_name.next(describe)
        return which

    def _roll_over(self, failed: FailureTail, already: sfn.Chain, presence: Presence) -> sfn.CustomState:
        rollover = RollOver(
            self,
            "RollOver",
            settings=self._settings,
            presence=presence,
            smoke_test=self._smoke_test,
            endpoint_role=self._endpoint_role,
            vpc=self._vpc,
            capture=self._capture,
        )
        back = self._unlocked("Switched on")

        def unless(other: sfn.IChainable, scale: sfn.IChainable) -> sfn.IChainable:
            same = sfn.Choice(self, "Is it switched on?").when(STAYS, scale).otherwise(already)
            return self._running.compare(failed, same=same, other=other)

        # The record says already what was brought back.
        then = sfn.Choice(self, "Was it only switched on?").when(STAYS, back)
        return rollover.states(
            failed,
            unless=unless,
            nothing=self._unlocked("Nothing to check"),
            back=back,
            then=then.otherwise(self._record_live("Record the live model", failed, "live", "Deployed")),
        )

    def _record_only(self, failed: FailureTail, already: sfn.Chain) -> sfn.Choice:
        current = sfn.Choice(self, "Is it live already?")
        is_recorded = sfn.Condition.string_equals_json_path("$.live.parts[0]", "$.model_package")
        record = self._record_live("Record the model to start with", failed, "recorded", "Recorded")
        return current.when(is_recorded, already).otherwise(record)

    def _record_live(self, name: str, failed: FailureTail, status: str, ending: str) -> sfn.CustomState:
        live = self._record.live(name, failed)
        chain = live.next(self._record.release(f"Record the release as {status}", status, failed))
        notice = self._record.notice(status, failed)
        end = self._lock.give_back("Unlock").next(sfn.Succeed(self, ending))
        if not self._presence:
            chain.next(notice).next(end)
            return live
        # Nothing was noted of an endpoint that wasn't there.
        known = sfn.Choice(self, "Did an endpoint run before?")
        known.when(IS_AWAY, notice).otherwise(self._running.forget(failed).next(notice))
        chain.next(known)
        stays = sfn.Choice(self, "Is it to be deleted again?")
        stays.when(IS_AWAY, self._presence.delete(failed, unlocked=self._unlocked)).otherwise(end)
        notice.next(stays)
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
        if not self._presence:
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
        self._presence.allow(machine, configs=[configs])
        first_model = [self._first_model_arn] if self._first_model_arn else []
        allow_comparing(machine, configs=[configs, *first], models=[models, *first_model])
        allow_rollback_alarms(machine.role, self._settings)
        machine.allow(
            "iam:PassRole",
            on=[self._endpoint_role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )


def _asks(what: str) -> sfn.Condition:
    """Whether the input is about the endpoint's coming or going."""
    return sfn.Condition.and_(sfn.Condition.is_present("$.endpoint"), sfn.Condition.string_equals("$.endpoint", what))
