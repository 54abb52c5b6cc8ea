"""The endpoint, and the only thing that may change which model it serves."""

from __future__ import annotations

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

from cdk.constructs.data_access import allow_objects
from cdk.constructs.deployment import Deployment
from cdk.constructs.hosting import VARIANT, alarm_names, container, production_variant, rollout
from cdk.constructs.image import allow_image_pull
from cdk.constructs.notifications import notify_about_failures
from cdk.constructs.permissions import allow_job_basics
from cdk.constructs.python_function import PythonFunction
from cdk.settings import Settings
from cdk.stacks.data import DataStack, live_model_parameter


class ServingStack(cdk.Stack):
    """Model, endpoint configuration and endpoint, derived from the live model, and the deploy state machine.

    The parameter of the live model is read at every deploy: a changed instance type keeps the model, a released model keeps
    the instance type. With ``serving.enabled`` false only the deploy state machine is here, to record the model to start with.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, data: DataStack, **kwargs) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the endpoint and its releases", **kwargs)
        role = iam.Role(self, "EndpointRole", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        allow_objects(role, data, read=["models/"])
        allow_job_basics(role)
        allow_image_pull(role, settings)
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
        allow_objects(smoke_test.role, data, read=["models/*/evaluation/"])
        config = self._host(settings, role, data) if settings.serving.enabled else None
        deployment = Deployment(
            self,
            "Deployment",
            settings=settings,
            data=data,
            smoke_test=smoke_test,
            endpoint_role=role,
            first_config_arn=config.ref if config else None,
        )
        self._start_on_approval(settings, deployment)
        notify_about_failures(self, data, deployment.machine.state_machine_arn)
        cdk.CfnOutput(self, "DeployStateMachine", value=deployment.machine.state_machine_arn)
        cdk.CfnOutput(self, "EndpointName", value=settings.prefix if settings.serving.enabled else "none")

    def _host(self, settings: Settings, role: iam.Role, data: DataStack) -> sagemaker.CfnEndpointConfig:
        # Resolved by CloudFormation at every deploy, never at synth: package ARN, model data URI, image.
        live = ssm.StringListParameter.value_for_typed_list_parameter(
            self, live_model_parameter(settings), ssm.ParameterValueType.STRING
        )
        # No physical names: CloudFormation must be able to replace a model and a configuration.
        model = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=role.role_arn,
            primary_container=_lower_camel(container(cdk.Fn.select(2, live), cdk.Fn.select(1, live))),
        )
        # The role's policy must be there before SageMaker fetches the model with it.
        model.node.add_dependency(role)
        config = sagemaker.CfnEndpointConfig(
            self,
            "EndpointConfig",
            production_variants=[
                {**_lower_camel(production_variant(settings.serving)), "modelName": model.attr_model_name}  # type: ignore[list-item]
            ],
        )
        alarms = self._rollback_alarms(settings, data)
        deployment_config = rollout(settings).get("DeploymentConfig")
        endpoint = sagemaker.CfnEndpoint(
            self,
            "Endpoint",
            endpoint_name=settings.prefix,
            endpoint_config_name=config.attr_endpoint_config_name,
            retain_all_variant_properties=True,
            deployment_config=_lower_camel(deployment_config) if deployment_config else None,
        )
        for alarm in alarms:
            endpoint.node.add_dependency(alarm)
        self._scale(settings, endpoint)
        return config

    def _scale(self, settings: Settings, endpoint: sagemaker.CfnEndpoint) -> None:
        serving = settings.serving
        target = autoscaling.ScalableTarget(
            self,
            "Instances",
            service_namespace=autoscaling.ServiceNamespace.SAGEMAKER,
            resource_id=f"endpoint/{settings.prefix}/variant/{VARIANT}",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            min_capacity=serving.min_instances,
            max_capacity=serving.max_instances,
        )
        target.node.add_dependency(endpoint)
        target.scale_to_track_metric(
            "ConcurrentRequests",
            target_value=serving.concurrent_requests_per_instance,
            # Published every ten seconds, so that a burst is met within a minute; the invocation count takes several.
            predefined_metric=autoscaling.PredefinedMetric.SAGEMAKER_VARIANT_CONCURRENT_REQUESTS_PER_MODEL_HIGH_RESOLUTION,
            scale_in_cooldown=cdk.Duration.minutes(10),
            scale_out_cooldown=cdk.Duration.minutes(2),
        )

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
                alarm_description="The endpoint answers with server errors; an update under way is rolled back",
                metric=metric("Invocation5XXErrors", "Sum"),
                threshold=3,
                evaluation_periods=2,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
            cloudwatch.Alarm(
                self,
                "Latency",
                alarm_name=latency,
                alarm_description="The slowest twentieth of the answers takes over five seconds; an update is rolled back",
                metric=metric("ModelLatency", "p95"),
                threshold=5_000_000,  # microseconds
                evaluation_periods=3,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ),
        ]
        for alarm in alarms:
            alarm.add_alarm_action(cloudwatch_actions.SnsAction(data.topic))
        return alarms

    def _start_on_approval(self, settings: Settings, deployment: Deployment) -> None:
        rule = events.Rule(
            self,
            "PackageApproved",
            description="An approved model package is deployed",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Model Package State Change"],
                detail={"ModelPackageGroupName": [settings.prefix], "ModelApprovalStatus": ["Approved"]},
            ),
        )
        package = events.EventField.from_path("$.detail.ModelPackageArn")
        rule.add_target(
            targets.SfnStateMachine(deployment.machine, input=events.RuleTargetInput.from_object({"model_package": package}))
        )


def _lower_camel(value):
    """Turn the API's names (``VariantName``) into the CDK's (``variantName``), all the way down."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: _lower_camel(item) for key, item in value.items()}
    return [_lower_camel(item) for item in value] if isinstance(value, list) else value
