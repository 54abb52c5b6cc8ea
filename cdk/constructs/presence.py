"""The endpoint taken away, and what comes back with it."""

from __future__ import annotations

from collections.abc import Callable

import aws_cdk as cdk
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.hosting import SILENT, VARIANT, scalable_target, target_tracking
from cdk.constructs.permissions import OWN_NAMES
from cdk.constructs.states import FailureTail, LoggedStateMachine, call
from ko_reranker.settings import Settings

_ALARMS_OF_SCALING = "Application Auto Scaling names the alarms of a policy, beginning with what it scales."
_TARGETS = "Application Auto Scaling gives targets ids of its own; conditions bound them to endpoints' instances."
# What ends by itself; SageMaker refuses to delete an endpoint meanwhile.
_CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


def describe_endpoint(
    scope: Construct, name: str, endpoint: str, failed: FailureTail, *, result_path: str, missing: sfn.IChainable
) -> sfn.CustomState:
    """Return a state that describes the endpoint.

    Args:
        missing: goes on where there is none.
    """
    state = call(
        scope,
        name,
        "aws-sdk:sagemaker:describeEndpoint",
        {"EndpointName": endpoint},
        comment="Its status and the configuration it serves",
        result_path=result_path,
    )
    # SageMaker has no error of its own for an endpoint that isn't there.
    none = sfn.Choice(scope, f"{name}: does it exist?")
    none.when(sfn.Condition.string_matches("$.error.Cause", "*Could not find endpoint*"), missing).otherwise(failed.start)
    state.add_catch(none, errors=["SageMaker.SageMakerException"], result_path="$.error")
    state.add_catch(failed.start, result_path="$.error")
    return state


class Presence(Construct):
    """States that delete the endpoint, and those that give one that was made anew its scaling and its alarm.

    Models, configurations and the live model's record stay. Autoscaling's target goes with the endpoint, and with it policies
    and hours.

    Args:
        policy_name: of the scaling policy, as CloudFormation made it.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, policy_name: str) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._endpoint, self._policy_name = settings, settings.prefix, policy_name
        self._poll = sfn.WaitTime.duration(cdk.Duration.seconds(settings.release.poll_seconds))

    def take_away(self, failed: FailureTail, *, unlocked: Callable[[str], sfn.Chain]) -> sfn.CustomState:
        """Return the first state of taking the endpoint away, whatever it is busy with.

        Args:
            unlocked: makes the end of that name, with the lock given back.
        """
        start = describe_endpoint(
            self,
            "Describe the endpoint to delete",
            self._endpoint,
            failed,
            result_path="$.before",
            missing=unlocked("Already deleted"),
        )
        busy = sfn.Choice(self, "Is it being changed?")
        wait = sfn.Wait(self, "Wait for the change", time=self._poll)
        changing = [sfn.Condition.string_equals("$.before.EndpointStatus", status) for status in _CHANGING]
        mute = call(
            self,
            "Disable its alarm's actions",
            "aws-sdk:cloudwatch:disableAlarmActions",
            {"AlarmNames": [self._alarm]},
            comment="To be away on purpose is no alarm",
            failure=failed,
            retry_on=["States.TaskFailed"],
        )
        start.next(busy)
        busy.when(sfn.Condition.or_(*changing), wait).otherwise(mute)
        wait.next(start)
        mute.next(self.delete(failed, unlocked=unlocked))
        return start

    def delete(self, failed: FailureTail, *, unlocked: Callable[[str], sfn.Chain]) -> sfn.CustomState:
        """Return the state that deletes an endpoint at rest, and waits until it is gone; one state, however often asked for."""
        name = "Delete the endpoint"
        if (made := self.node.try_find_child(name)) is not None:
            assert isinstance(made, sfn.CustomState)  # noqa: S101 - made below
            return made
        delete = self._delete(name, failed)
        wait = sfn.Wait(self, "Wait for the deletion", time=self._poll)
        gone = describe_endpoint(
            self, "Describe the deletion", self._endpoint, failed, result_path="$.before", missing=unlocked("Deleted")
        )
        delete.next(wait).next(gone).next(wait)
        return delete

    def discard(self, name: str, failed: FailureTail, then: sfn.IChainable) -> sfn.CustomState:
        """Return a state that deletes an endpoint which came to nothing, so that the next attempt finds its name free."""
        state = self._delete(name, failed, keeps_error=True)
        state.next(then)
        return state

    def _delete(self, name: str, failed: FailureTail, *, keeps_error: bool = False) -> sfn.CustomState:
        state = call(
            self,
            name,
            "aws-sdk:sagemaker:deleteEndpoint",
            {"EndpointName": self._endpoint},
            comment="Models, configurations and the record stay",
        )
        state.add_catch(failed.start, result_path=sfn.JsonPath.DISCARD if keeps_error else "$.error")
        return state

    def bring_back(self, failed: FailureTail, then: sfn.IChainable) -> sfn.CustomState:
        """Return the first of the states that scale the endpoint as the stack does, and listen to its alarm again."""
        serving, target = self._settings.serving, scalable_target(self._endpoint)

        def scaling(name: str, action: str, comment: str, **parameters: object) -> sfn.CustomState:
            return call(
                self,
                name,
                f"aws-sdk:applicationautoscaling:{action}",
                {**target, **parameters},
                comment=comment,
                failure=failed,
                retry_on=["States.TaskFailed"],
            )

        bounds = {"MinCapacity": serving.min_instances, "MaxCapacity": serving.max_instances}
        states = [
            scaling("Register its scalable target", "registerScalableTarget", "The target went with the endpoint", **bounds),
            scaling(
                "Put its scaling policy",
                "putScalingPolicy",
                "As the stack does",
                PolicyName=self._policy_name,
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration=target_tracking(serving),
            ),
        ]
        for place, item in enumerate(self._settings.schedule.capacity):
            action = {"MinCapacity": item.min_instances, "MaxCapacity": item.max_instances}
            states.append(
                scaling(
                    f"Put its scheduled action {place + 1}",
                    "putScheduledAction",
                    "As the stack does",
                    ScheduledActionName=f"Hours{place}",
                    Schedule=item.at,
                    Timezone=self._settings.schedule.time_zone,
                    ScalableTargetAction=action,
                )
            )
        states.append(
            call(
                self,
                "Enable its alarm's actions",
                "aws-sdk:cloudwatch:enableAlarmActions",
                {"AlarmNames": [self._alarm]},
                comment="From now on an instance has to report",
                failure=failed,
                retry_on=["States.TaskFailed"],
            )
        )
        for state, following in zip(states, [*states[1:], then], strict=True):
            state.next(following)
        return states[0]

    @property
    def _alarm(self) -> str:
        return f"{self._endpoint}-{SILENT}"

    def allow(self, machine: LoggedStateMachine, *, configs: list[str]) -> None:
        """Let a state machine do all of it.

        Args:
            configs: ARNs of the configurations that the endpoint is made of.
        """
        stack = cdk.Stack.of(self)
        endpoint = stack.format_arn(service="sagemaker", resource="endpoint", resource_name=self._endpoint)

        def alarm(name: str) -> str:
            return stack.format_arn(
                service="cloudwatch", resource="alarm", resource_name=name, arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
            )

        machine.allow("sagemaker:CreateEndpoint", on=[endpoint, *configs], because=OWN_NAMES)
        # What autoscaling asks of whoever has it change an endpoint's instances.
        # https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-prerequisites.html
        changes = "sagemaker:UpdateEndpointWeightsAndCapacities"
        machine.allow("sagemaker:DeleteEndpoint", "sagemaker:AddTags", changes, on=[endpoint])
        machine.allow("cloudwatch:DisableAlarmActions", "cloudwatch:EnableAlarmActions", on=[alarm(self._alarm)])
        target = scalable_target(self._endpoint)
        # SageMaker deletes no endpoint whose target the caller may not deregister.
        # https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-delete-with-scaling.html
        actions = ("RegisterScalableTarget", "DeregisterScalableTarget", "PutScalingPolicy")
        scheduled = ("PutScheduledAction",) if self._settings.schedule.capacity else ()
        machine.allow(
            *(f"application-autoscaling:{action}" for action in (*actions, *scheduled)),
            on=[stack.format_arn(service="application-autoscaling", resource="scalable-target", resource_name="*")],
            conditions={
                "StringEquals": {
                    "application-autoscaling:service-namespace": target["ServiceNamespace"],
                    "application-autoscaling:scalable-dimension": target["ScalableDimension"],
                }
            },
            because=_TARGETS,
        )
        machine.allow(
            "cloudwatch:PutMetricAlarm",
            "cloudwatch:DescribeAlarms",
            "cloudwatch:DeleteAlarms",
            on=[alarm(f"TargetTracking-endpoint/{self._endpoint}/variant/{VARIANT}-*")],
            because=_ALARMS_OF_SCALING,
        )
