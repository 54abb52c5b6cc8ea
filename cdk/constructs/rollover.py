"""The endpoint put onto another model, or left on the one that it had."""

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
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.states import FailureTail, call, invoke
from ko_reranker.settings import Settings


class RollOver(Construct):
    """States that wait for the endpoint, make model and configuration, update the endpoint, and test it.

    Args:
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
        smoke_test: PythonFunction,
        endpoint_role: iam.Role,
        vpc: Mapping[str, Sequence[str]] | None = None,
        capture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._endpoint = settings, settings.prefix
        self._smoke_test, self._endpoint_role, self._vpc = smoke_test, endpoint_role, vpc
        self._capture = dict(capture or {})
        self._poll = sfn.WaitTime.duration(cdk.Duration.seconds(settings.release.poll_seconds))

    def states(
        self, failed: FailureTail, *, unless: Callable[[sfn.IChainable], sfn.IChainable], then: sfn.IChainable
    ) -> sfn.CustomState:
        """Return the first state; it needs ``$.package`` and leaves the endpoint's description in ``$.before``.

        Args:
            unless: makes the state that decides, of the one to go on with, whether there is anything to do.
            then: goes on when the new model is in service and has passed its test.
        """
        smoke = self._test(failed)
        smoke.next(then)
        update = self._update(failed, smoke)
        return self._wait_for_the_endpoint(failed, unless(self._make(failed, update)))

    def _wait_for_the_endpoint(self, failed: FailureTail, go_on: sfn.IChainable) -> sfn.CustomState:
        before = self._describe_endpoint("Describe the endpoint", "$.before", failed)
        ready = sfn.Choice(self, "Is the endpoint ready?")
        wait_before = sfn.Wait(self, "Wait for the endpoint", time=self._poll)
        broken = sfn.Pass(
            self,
            "The endpoint is broken",
            parameters={
                "Cause.$": (
                    f"States.Format('The endpoint {self._endpoint} is {{}}: deploy the serving stack again (cdk deploy) "
                    "before a model.', $.before.EndpointStatus)"
                )
            },
            result_path="$.error",
        ).next(failed.start)
        before.next(ready)
        ready.when(sfn.Condition.string_equals("$.before.EndpointStatus", "InService"), go_on)
        ready.when(sfn.Condition.string_equals("$.before.EndpointStatus", "Failed"), broken).otherwise(wait_before)
        wait_before.next(before)
        return before

    def _make(self, failed: FailureTail, update: sfn.CustomState) -> sfn.Pass:
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
        model.next(config).next(update)
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

    def _update(self, failed: FailureTail, smoke: sfn.IChainable) -> sfn.CustomState:
        """Update the endpoint and wait until it serves the new model, or has gone back to the old one."""
        update = self._update_endpoint("Update the endpoint", "$.next.name", failed, exclude="$.next.exclude")
        wait = sfn.Wait(self, "Wait for the update", time=self._poll)
        after = self._describe_endpoint("Describe the update", "$.after", failed)
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
        rolled_back_reason = sfn.Pass(
            self,
            "Why it rolled back",
            parameters={
                "Cause.$": (
                    "States.Format('The endpoint did not take the new model and serves the old one: {}', "
                    "$.rollback.details.FailureReason)"
                )
            },
            result_path="$.error",
        )
        is_config = sfn.Condition.string_equals_json_path("$.after.EndpointConfigName", "$.next.name")
        in_service = sfn.Condition.string_equals("$.after.EndpointStatus", "InService")
        update.next(wait).next(after).next(updated)
        updated.when(sfn.Condition.and_(in_service, is_config), smoke)
        updated.when(
            sfn.Condition.or_(in_service, sfn.Condition.string_equals("$.after.EndpointStatus", "Failed")), rolled_back
        ).otherwise(wait)
        rolled_back.next(rolled_back_reason).next(failed.start)
        return update

    def _test(self, failed: FailureTail) -> tasks.LambdaInvoke:
        """Ask the golden queries; where they fail the old model is put back."""
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
        smoke.add_catch(restore, result_path="$.error")
        restore.next(failed.start)
        return smoke

    def _describe_endpoint(self, name: str, result_path: str, failed: FailureTail) -> sfn.CustomState:
        return call(
            self,
            name,
            "aws-sdk:sagemaker:describeEndpoint",
            {"EndpointName": self._endpoint},
            comment="Its status and the configuration it serves",
            result_path=result_path,
            failure=failed,
        )

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
