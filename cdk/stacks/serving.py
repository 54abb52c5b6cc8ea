"""The endpoint, and the only thing that may change which model it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk.constructs.clean_up import CleanUp
from cdk.constructs.deployment import Deployment
from cdk.constructs.hosting import (
    SCALE_IN_COOLDOWN,
    SCALE_OUT_COOLDOWN,
    VARIANT,
    alarm_names,
    allow_rollback_alarms,
    container,
    data_capture,
    production_variant,
    rollout,
    scalable_target,
    target_tracking,
)
from cdk.constructs.image import allow_image_pull
from cdk.constructs.job_roles import allow_job_basics
from cdk.constructs.model_age import model_age
from cdk.constructs.network import allow_network_interfaces
from cdk.constructs.notifications import notify_about_failures
from cdk.constructs.observed import told
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.release_guard import ReleaseGuard
from cdk.constructs.scheduled import ScheduledExecutions
from cdk.constructs.serving_observed import observed_serving
from cdk.constructs.stores import CAPTURED
from cdk.constructs.undelivered import Undelivered
from cdk.constructs.wake import Wake
from cdk.stacks.data import DataStack
from ko_reranker.settings import Settings


class ServingStack(cdk.Stack):
    """Model, endpoint configuration and endpoint, derived from the live model, and the deploy state machine.

    The parameter of the live model is read at every deploy: a changed instance type keeps the model, a released model keeps
    the instance type. With ``serving.enabled`` false only the deploy state machine is here, to record the model to start with.

    Args:
        vpc: where the endpoint runs, as SageMaker's ``VpcConfig``; None for a network of SageMaker's own.

    Attributes:
        observed: how the endpoint, its instances and its releases do.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        data: DataStack,
        vpc: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the endpoint and its releases", **kwargs)
        role = iam.Role(self, "EndpointRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        data.bucket.grant_objects(role, read=["models/"])
        allow_job_basics(role)
        allow_image_pull(role, settings)
        allow_rollback_alarms(role, settings)
        if vpc:
            allow_network_interfaces(role)
        self._vpc, self._capture = vpc, data_capture(settings, data.bucket)
        if self._capture:
            data.bucket.grant_objects(role, write=[CAPTURED])
        smoke_test = PythonFunction(
            self,
            "SmokeTest",
            folder="smoke_test",
            library=("data",),
            timeout=cdk.Duration.minutes(3),
            environment={"ENDPOINT_NAME": settings.prefix},
        )
        smoke_test.allow(
            "sagemaker:InvokeEndpoint",
            on=[self.format_arn(service="sagemaker", resource="endpoint", resource_name=settings.prefix)],
        )
        data.bucket.grant_objects(smoke_test.role, read=["models/*/evaluation/"])
        clean_up = None if settings.data.retain else CleanUp(self, "CleanUp", released_prefix=settings.prefix)
        hosted = self._host(settings, role, data, clean_up) if settings.serving.enabled else None
        deployment = Deployment(
            self,
            "Deployment",
            settings=settings,
            live_model=data.live_model,
            releases=data.releases,
            topic=data.topic,
            smoke_test=smoke_test,
            endpoint_role=role,
            first_config_arn=hosted[1].ref if hosted else None,
            first_model_arn=hosted[0].ref if hosted else None,
            policy_name=hosted[2] if hosted else None,
            vpc=vpc,
            capture=self._capture,
        )
        undelivered = Undelivered(self, "Undelivered")
        self._start_on_approval(settings, deployment, undelivered)
        if settings.serving.enabled:
            self._check_after_every_change(settings, deployment, undelivered)
            self._come_and_go(settings, deployment, data, undelivered)
        age = model_age(self, settings, data.live_model, undelivered.queue)
        self.observed = observed_serving(self, settings, age, undelivered)
        notify_about_failures(self, data.topic, deployment.machine.state_machine_arn, undelivered.queue)
        cdk.CfnOutput(self, "DeployStateMachine", value=deployment.machine.state_machine_arn)
        cdk.CfnOutput(self, "EndpointName", value=settings.prefix if settings.serving.enabled else "none")

    def _host(
        self, settings: Settings, role: iam.Role, data: DataStack, clean_up: CleanUp | None
    ) -> tuple[sagemaker.CfnModel, sagemaker.CfnEndpointConfig, str]:
        # Resolved by CloudFormation at every deploy, never at synth: package ARN, model data URI, image.
        live = ssm.StringListParameter.value_for_typed_list_parameter(self, data.live_model.name, ssm.ParameterValueType.STRING)
        # No physical names: CloudFormation must be able to replace a model and a configuration.
        model = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=role.role_arn,
            primary_container=_lower_camel(container(settings, cdk.Fn.select(2, live), cdk.Fn.select(1, live))),
            enable_network_isolation=settings.network.isolate_endpoint or None,
            vpc_config=_lower_camel(self._vpc) if self._vpc else None,
        )
        # The role's policy must be there before SageMaker fetches the model with it.
        model.node.add_dependency(role)
        config = sagemaker.CfnEndpointConfig(
            self,
            "EndpointConfig",
            data_capture_config=_lower_camel(self._capture["DataCaptureConfig"]) if self._capture else None,
            production_variants=[{**_lower_camel(production_variant(settings.serving)), "modelName": model.attr_model_name}],
        )
        alarms = self._rollback_alarms(settings, data)
        deployment_config = rollout(settings).get("DeploymentConfig")
        endpoint = sagemaker.CfnEndpoint(
            self,
            "Endpoint",
            endpoint_name=settings.prefix,
            endpoint_config_name=config.attr_endpoint_config_name,
            retain_all_variant_properties=True,
            # A canary may be at most half of the new fleet: an endpoint that retained its one instance would be refused it, as
            # when min_instances is raised and the canary switched on. With one, a deploy starts from min_instances.
            exclude_retained_variant_properties=(
                [sagemaker.CfnEndpoint.VariantPropertyProperty(variant_property_type="DesiredInstanceCount")]
                if deployment_config
                else None
            ),
            deployment_config=_lower_camel(deployment_config) if deployment_config else None,
        )
        for alarm in alarms:
            endpoint.node.add_dependency(alarm)
        guarded = {
            "EndpointConfig": config.attr_endpoint_config_name,
            "DeploymentConfig": deployment_config or {},
            "Bounds": {"Min": settings.serving.min_instances, "Max": settings.serving.max_instances},
            "Tracking": target_tracking(settings.serving),
            "Hours": [item.model_dump() for item in settings.schedule.capacity],
        }
        guard = ReleaseGuard(
            self, "ReleaseGuard", settings=settings, releases=data.releases, endpoint=settings.prefix, guarded=guarded
        )
        endpoint.node.add_dependency(guard.resource)
        if clean_up:
            # When the stack is deleted the endpoint goes first, then what releases made for it.
            endpoint.node.add_dependency(clean_up.resource)
        return model, config, self._scale(settings, endpoint)

    def _scale(self, settings: Settings, endpoint: sagemaker.CfnEndpoint) -> str:
        """Return the name of the scaling policy: an endpoint that is brought back gets it again from the state machine."""
        serving, scaled = settings.serving, scalable_target(settings.prefix)
        target = autoscaling.ScalableTarget(
            self,
            "Instances",
            service_namespace=autoscaling.ServiceNamespace.SAGEMAKER,
            resource_id=scaled["ResourceId"],
            scalable_dimension=scaled["ScalableDimension"],
            min_capacity=serving.min_instances,
            max_capacity=serving.max_instances,
        )
        target.node.add_dependency(endpoint)
        for place, item in enumerate(settings.schedule.capacity):
            target.scale_on_schedule(
                f"Hours{place}",
                schedule=autoscaling.Schedule.expression(item.at),
                time_zone=cdk.TimeZone.of(settings.schedule.time_zone),
                min_capacity=item.min_instances,
                max_capacity=item.max_instances,
            )
        target.scale_to_track_metric(
            "ConcurrentRequests",
            target_value=serving.concurrent_requests_per_instance,
            predefined_metric=autoscaling.PredefinedMetric.SAGEMAKER_VARIANT_CONCURRENT_REQUESTS_PER_MODEL_HIGH_RESOLUTION,
            scale_in_cooldown=SCALE_IN_COOLDOWN,
            scale_out_cooldown=SCALE_OUT_COOLDOWN,
        )
        policy = target.node.find_child("ConcurrentRequests").node.default_child
        assert isinstance(policy, autoscaling.CfnScalingPolicy)  # noqa: S101 - what the construct is made of
        return policy.policy_name

    def _rollback_alarms(self, settings: Settings, data: DataStack) -> list[cloudwatch.Alarm]:
        def metric(name: str, statistic: str) -> cloudwatch.Metric:
            return cloudwatch.Metric(
                namespace="AWS/SageMaker",
                metric_name=name,
                statistic=statistic,
                period=cdk.Duration.minutes(1),
                dimensions_map={"EndpointName": settings.prefix, "VariantName": VARIANT},
            )

        errors, latency = alarm_names(settings)
        alarms = [
            cloudwatch.Alarm(
                self,
                "Errors",
                alarm_name=errors,
                alarm_description=told(
                    "The endpoint answers with server errors; an update under way is rolled back",
                    "endpoint-errors",
                    settings.alerts,
                ),
                metric=metric("Invocation5XXErrors", "Sum"),
                threshold=3,
                evaluation_periods=2,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
            cloudwatch.Alarm(
                self,
                "Latency",
                alarm_name=latency,
                alarm_description=told(
                    "The slowest twentieth of the endpoint's answers takes over five seconds; an update is rolled back",
                    "endpoint-latency",
                    settings.alerts,
                ),
                metric=metric("ModelLatency", "p95"),
                threshold=5_000_000,  # microseconds
                evaluation_periods=3,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
        ]
        for alarm in alarms:
            alarm.add_alarm_action(cloudwatch_actions.SnsAction(data.topic.topic))
        return alarms

    def _start_on_approval(self, settings: Settings, deployment: Deployment, undelivered: Undelivered) -> None:
        rule = events.Rule(
            self,
            "PackageApproved",
            description="An approved model package is deployed",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Model Package State Change"],
                detail={
                    "ModelPackageGroupName": [settings.prefix],
                    "ModelApprovalStatus": ["Approved"],
                    # Editing an approved package's metadata raises the event again, with "Approved" in it: what counts is that
                    # the status is what changed, or that the package is new. The field says so in AWS's own sample:
                    # https://github.com/aws/CICD-for-SageMakerUnifiedStudio (Deploy trigger behavior)
                    "$or": [
                        {"UpdatedModelPackageFields": ["ModelApprovalStatus"]},
                        {"UpdatedModelPackageFields": [{"exists": False}]},
                    ],
                },
            ),
        )
        package = events.EventField.from_path("$.detail.ModelPackageArn")
        named = events.RuleTargetInput.from_object({"model_package": package})
        rule.add_target(targets.SfnStateMachine(deployment.machine, input=named, dead_letter_queue=undelivered.queue))

    def _come_and_go(self, settings: Settings, deployment: Deployment, data: DataStack, undelivered: Undelivered) -> None:
        """By the clock, and at a request where the settings say so."""
        machine, schedule = deployment.machine, settings.schedule
        if schedule.endpoint:
            hours = ScheduledExecutions(
                self, "EndpointHours", machine=machine, time_zone=schedule.time_zone, undelivered=undelivered.queue
            )
            off, on = {"endpoint": "off"}, {"endpoint": "on"}
            hours.start("Off", at=schedule.endpoint.off, with_input=off, description="Take the endpoint away")
            hours.start("On", at=schedule.endpoint.on, with_input=on, description="Bring the endpoint back")
        if settings.serving.wake_on_request:
            wake = Wake(self, "Wake", settings=settings, machine=machine)
            notify_about_failures(wake, data.topic, wake.arn, undelivered.queue)

    def _check_after_every_change(self, settings: Settings, deployment: Deployment, undelivered: Undelivered) -> None:
        """Whoever changed the endpoint, the deploy state machine checks whether it runs the recorded model now."""
        rule = events.Rule(
            self,
            "EndpointChanged",
            description="The endpoint is in service again: does it run the recorded model?",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Endpoint State Change"],
                # The page's example spells the status in capitals, the API's reference doesn't.
                # https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html
                detail={"EndpointName": [settings.prefix], "EndpointStatus": ["IN_SERVICE", "InService"]},
            ),
        )
        check = events.RuleTargetInput.from_object({"model_package": "live"})
        rule.add_target(targets.SfnStateMachine(deployment.machine, input=check, dead_letter_queue=undelivered.queue))


def _lower_camel(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the API's names (``VariantName``) into the CDK's (``variantName``), all the way down."""
    # A container's variables have the user's names, not the API's.
    return {key[0].lower() + key[1:]: item if key == "Environment" else _renamed(item) for key, item in values.items()}


def _renamed(value: object) -> object:
    if isinstance(value, dict):
        return _lower_camel(value)
    return [_renamed(item) for item in value] if isinstance(value, list) else value
