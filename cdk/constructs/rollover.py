"""The endpoint put onto another model, or left on the one that it had; made anew where it is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from cdk.constructs.hosting import container, network_of, production_variant, rollout
from cdk.constructs.jobs import tag_list
from cdk.constructs.presence import Presence, describe_endpoint
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.states import FailureTail, call, invoke
from ko_reranker.settings import Settings

# What `$.before` says where there was no endpoint.
IS_AWAY = sfn.Condition.is_present("$.before.away")
# What `$.asked` says where it is to be there from now on; who releases a model meanwhile has it for the test alone.
STAYS = sfn.Condition.string_equals("$.asked", "on")


class RollOver(Construct):
    """States that wait for the endpoint, make model and configuration, update or create the endpoint, and test it.

    Args:
        presence: takes away what was created and came to nothing, and gives what stays its scaling.
        smoke_test: the function that asks the endpoint golden queries.
        endpoint_role: what the endpoint's container may do.
        vpc: where the endpoint runs, as SageMaker's ``VpcConfig``; None for a network of SageMaker's own.
        capture: which calls are stored, see `hosting.data_capture`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        presence: Presence,
        smoke_test: PythonFunction,
        endpoint_role: iam.Role,
        vpc: Mapping[str, Sequence[str]] | None = None,
        capture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._endpoint, self._presence = settings, settings.prefix, presence
        self._smoke_test, self._endpoint_role, self._vpc = smoke_test, endpoint_role, vpc
        self._capture = dict(capture or {})
        self._poll = sfn.WaitTime.duration(cdk.Duration.seconds(settings.release.poll_seconds))

    def states(
        self,
        failed: FailureTail,
        *,
        unless: Callable[[sfn.IChainable, sfn.IChainable], sfn.IChainable],
        nothing: sfn.IChainable,
        back: sfn.IChainable,
        then: sfn.IChainable,
    ) -> sfn.CustomState:
        """Return the first state; it needs ``$.package`` and leaves the endpoint's description in ``$.before``.

        Args:
            unless: makes the state that decides whether there is anything to do, of the one that goes on with it, and of the
                one that makes sure of scaling and alarm.
            nothing: goes on where an endpoint that is away was only to be looked at.
            back: goes on where the endpoint has its model already, and now scaling and alarm for sure.
            then: goes on when the new model is in service and has passed its test.
        """
        discard = self._presence.discard("Delete the new endpoint", failed, failed.start)
        smoke = self._test(failed, discard)
        smoke.next(then)
        made = sfn.Choice(self, "Was a model deployed?")
        made.when(sfn.Condition.is_present("$.next"), smoke).otherwise(back)
        scale = self._presence.bring_back(failed, made)
        make = self._make(failed, self._put_in_service(failed, smoke, scale, discard))
        away = sfn.Choice(self, "Is only a check asked for?")
        create = sfn.Pass(self, "No endpoint", result=sfn.Result.from_object({"away": True}), result_path="$.before")
        away.when(sfn.Condition.string_equals("$.asked", "check"), nothing).otherwise(create)
        create.next(make)
        return self._wait_for_the_endpoint(failed, unless(make, scale), missing=away)

    def _wait_for_the_endpoint(self, failed: FailureTail, go_on: sfn.IChainable, *, missing: sfn.IChainable) -> sfn.CustomState:
        before = describe_endpoint(
            self, "Describe the endpoint", self._endpoint, failed, result_path="$.before", missing=missing
        )
        ready = sfn.Choice(self, "Is the endpoint ready?")
        wait_before = sfn.Wait(self, "Wait for the endpoint", time=self._poll)
        broken = sfn.Pass(
            self,
            "The endpoint is broken",
            parameters={
                "Cause.$": (
                    f"States.Format('The endpoint {self._endpoint} is {{}}: make it anew before another model "
                    "(ko-reranker endpoint on).', $.before.EndpointStatus)"
                )
            },
            result_path="$.error",
        ).next(failed.start)
        before.next(ready)
        is_broken = sfn.Condition.string_equals("$.before.EndpointStatus", "Failed")
        ready.when(sfn.Condition.string_equals("$.before.EndpointStatus", "InService"), go_on)
        ready.when(
            sfn.Condition.and_(is_broken, STAYS), self._presence.discard("Delete the failed endpoint", failed, wait_before)
        )
        ready.when(is_broken, broken).otherwise(wait_before)
        wait_before.next(before)
        return before

    def _make(self, failed: FailureTail, put: sfn.IChainable) -> sfn.Pass:
        """Make the model and its configuration, both of a new name."""
        name = sfn.Pass(
            self,
            "Name the new configuration",
            parameters={"name.$": f"States.Format('{self._endpoint}-{{}}', States.UUID())", "exclude": []},
            result_path="$.next",
        )
        model = call(
            self,
            "Create the model",
            "aws-sdk:sagemaker:createModel",
            {
                "ModelName.$": "$.next.name",
                "ExecutionRoleArn": self._endpoint_role.role_arn,
                "PrimaryContainer": container(self._settings, "$.package.image", "$.package.data"),
                **network_of(self._settings, self._vpc),
                "Tags": tag_list(self._settings.resource_tags),
            },
            comment="The package's image and data",
            failure=failed,
        )
        config = call(
            self,
            "Create the endpoint configuration",
            "aws-sdk:sagemaker:createEndpointConfig",
            {
                "EndpointConfigName.$": "$.next.name",
                "ProductionVariants": [{"ModelName.$": "$.next.name", **production_variant(self._settings.serving)}],
                **self._capture,
                "Tags": tag_list(self._settings.resource_tags),
            },
            comment="The settings' instances, the new model",
            failure=failed,
        )
        name.next(self._instances(model))
        model.next(config).next(put)
        return name

    def _instances(self, model: sfn.CustomState) -> sfn.Choice:
        """Keep what autoscaling has set, unless the settings ask for more by now: a canary may be at most half of it."""
        desired = "$.before.ProductionVariants[0].DesiredInstanceCount"
        enough = sfn.Choice(self, "Are there enough instances to keep?")
        start_over = sfn.Pass(
            self,
            "Start from min_instances",
            result=sfn.Result.from_array([{"VariantPropertyType": "DesiredInstanceCount"}]),
            result_path="$.next.exclude",
        )
        fewer = sfn.Condition.number_less_than(desired, self._settings.serving.min_instances)
        enough.when(sfn.Condition.and_(sfn.Condition.is_present(desired), fewer), start_over).otherwise(model)
        start_over.next(model)
        return enough

    def _put_in_service(
        self, failed: FailureTail, smoke: sfn.IChainable, scale: sfn.IChainable, discard: sfn.IChainable
    ) -> sfn.Choice:
        """Update or create the endpoint and wait until it serves the new model, has gone back to the old one, or failed."""
        put = sfn.Choice(self, "Is there an endpoint?")
        update = self._update_endpoint("Update the endpoint", "$.next.name", failed, exclude="$.next.exclude")
        create = call(
            self,
            "Create the endpoint",
            "aws-sdk:sagemaker:createEndpoint",
            {
                "EndpointName": self._endpoint,
                "EndpointConfigName.$": "$.next.name",
                "Tags": tag_list(self._settings.resource_tags),
            },
            comment="Nobody is answered before it is in service",
            failure=failed,
        )
        put.when(IS_AWAY, create).otherwise(update)
        wait = sfn.Wait(self, "Wait for the update", time=self._poll)
        after = call(
            self,
            "Describe the update",
            "aws-sdk:sagemaker:describeEndpoint",
            {"EndpointName": self._endpoint},
            comment="Its status and the configuration it serves",
            result_path="$.after",
            failure=failed,
        )
        updated = sfn.Choice(self, "Is the new model in service?")
        rolled_back = sfn.Pass(
            self,
            "The endpoint rolled back",
            # SageMaker says why in FailureReason, and leaves the field out where it has nothing to say.
            parameters={
                "details.$": 'States.JsonMerge(States.StringToJson(\'{"FailureReason":"no reason given"}\'), $.after, false)'
            },
            result_path="$.rollback",
        )

        def why(name: str, says: str) -> sfn.Pass:
            cause = f"States.Format('{says}: {{}}', $.rollback.details.FailureReason)"
            return sfn.Pass(self, name, parameters={"Cause.$": cause}, result_path="$.error")

        rolled_back_reason = why("Why it rolled back", "The endpoint did not take the new model and serves the old one")
        not_started = why("Why it did not start", "The endpoint that was created did not come into service")
        is_config = sfn.Condition.string_equals_json_path("$.after.EndpointConfigName", "$.next.name")
        in_service = sfn.Condition.string_equals("$.after.EndpointStatus", "InService")
        update.next(wait)
        create.next(wait).next(after).next(updated)
        serves = sfn.Condition.and_(in_service, is_config)
        updated.when(sfn.Condition.and_(serves, STAYS), scale)
        updated.when(serves, smoke)
        updated.when(
            sfn.Condition.or_(in_service, sfn.Condition.string_equals("$.after.EndpointStatus", "Failed")), rolled_back
        ).otherwise(wait)
        rolled_back.next(sfn.Choice(self, "Was it created?").when(IS_AWAY, not_started).otherwise(rolled_back_reason))
        rolled_back_reason.next(failed.start)
        not_started.next(discard)
        return put

    def _test(self, failed: FailureTail, discard: sfn.IChainable) -> tasks.LambdaInvoke:
        """Ask the golden queries; where they fail the old model is put back, or the endpoint is away as before.

        One that was to come back stays: its model was live before, and an odd score is less than no answer.
        """
        smoke = invoke(
            self,
            "Smoke test",
            self._smoke_test.function,
            {"golden.$": "$.package.golden"},
            comment="Golden queries must score as they did in the evaluation",
            result_path="$.smoke_test",
            failure=None,
        )
        restore = self._update_endpoint("Put the old model back", "$.before.EndpointConfigName", failed, at_once=True)
        undo = sfn.Choice(self, "Was there an endpoint before?")
        undo.when(sfn.Condition.and_(IS_AWAY, STAYS), failed.start).when(IS_AWAY, discard).otherwise(restore)
        smoke.add_catch(undo, result_path="$.error")
        restore.next(failed.start)
        return smoke

    def _update_endpoint(
        self, name: str, config: str, failed: FailureTail, *, exclude: str | None = None, at_once: bool = False
    ) -> sfn.CustomState:
        state = call(
            self,
            name,
            "aws-sdk:sagemaker:updateEndpoint",
            {
                "EndpointName": self._endpoint,
                "EndpointConfigName.$": config,
                # What autoscaling has set stays as it is.
                "RetainAllVariantProperties": True,
                **({"ExcludeRetainedVariantProperties.$": exclude} if exclude else {}),
                # Alarms that the failed model set off must not stop the way back.
                **({} if at_once else rollout(self._settings)),
            },
            comment="Blue/green: the old instances answer until the new ones do",
        )
        # When even putting the old model back fails, the reason to report is still the first one.
        state.add_catch(failed.start, result_path=sfn.JsonPath.DISCARD if at_once else "$.error")
        return state
