"""The deploy state machine: an approved model package becomes the live model, or everything stays as it was."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.data_access import allow_publish, allow_table
from cdk.constructs.hosting import container, production_variant, rollout
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.release_lock import ReleaseLock
from cdk.constructs.states import FailureTail, LoggedStateMachine, call, invoke, look_up_live_model
from cdk.settings import Settings
from cdk.stacks.data import DataStack, live_model_parameter


class Deployment(Construct):
    """Lock, roll the endpoint over, test it, record what is live, notify.

    Input: ``{"model_package": ARN}``, from the approval event or from a person. Where serving is switched off the model is
    recorded as the one that the next deploy of the stack starts the endpoint with.

    Args:
        smoke_test: the function that asks the endpoint golden queries.
        endpoint_role: what the endpoint's container may do.
        first_config_arn: the endpoint configuration that the stack itself made; None where serving is switched off.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        data: DataStack,
        smoke_test: PythonFunction,
        endpoint_role: iam.Role,
        first_config_arn: str | None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._data = settings, data
        self._smoke_test, self._endpoint_role = smoke_test, endpoint_role
        self._endpoint, self._first_config_arn = settings.prefix, first_config_arn
        self._lock = ReleaseLock(self, "Lock", table=self._table, poll_seconds=settings.release.poll_seconds)
        machine = LoggedStateMachine(
            self,
            "Deploy",
            name=f"{settings.prefix}-deploy",
            comment="Make an approved model package the live model",
            definition=self._definition(),
            timeout=cdk.Duration.hours(6),
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
            before_failing=self._record_failure().next(self._lock.give_back("Give the lock back")),
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
            sfn.Condition.string_matches("$.model_package", f"arn:*:sagemaker:*:model-package/{self._settings.prefix}/*"),
        )
        take_lock = self._lock.take(refused)
        check.when(named, take_lock).otherwise(invalid)

        describe = call(
            self,
            "Describe the model package",
            "aws-sdk:sagemaker:describeModelPackage",
            {"ModelPackageName.$": "$.model_package"},
            comment="Its image and its model data",
            result_path="$.described",
            failure=failed,
        )
        deployable, package = self._read_package(failed)
        live = look_up_live_model(self, self._settings, failed)
        current = sfn.Choice(self, "Is it live already?")
        already = self._record_release("It is live already", "live").next(self._lock.give_back("Unlock, nothing to do"))
        already = already.next(sfn.Succeed(self, "Already live"))
        take_lock.next(describe).next(deployable)
        package.next(live).next(current)
        current.when(
            sfn.Condition.and_(
                sfn.Condition.is_present("$.live.parts[0]"),
                sfn.Condition.string_equals_json_path("$.live.parts[0]", "$.model_package"),
            ),
            already,
        ).otherwise(self._roll_over(failed) if self._settings.serving.enabled else self._record_only(failed))
        return sfn.Chain.start(check)

    def _read_package(self, failed: FailureTail) -> tuple[sfn.Choice, sfn.State]:
        """Check the described package; returns the check, and the state that follows with what is needed in $.package."""
        described = "$.described"
        data = f"{described}.InferenceSpecification.Containers[0].ModelDataSource.S3DataSource.S3Uri"
        golden = f"{described}.CustomerMetadataProperties.golden"

        def refuse(name: str, sentence: str) -> sfn.Chain:
            reason = sfn.Pass(self, name, parameters={"Cause.$": sentence}, result_path="$.error")
            return reason.next(failed.start)

        unapproved = refuse(
            "It is not approved",
            "States.Format('{} is {}: only an approved one is deployed.', $.model_package, $.described.ModelApprovalStatus)",
        )
        no_prefix = refuse(
            "Its model is no S3 prefix",
            "States.Format('{} has no uncompressed model data: use ko-reranker models register.', $.model_package)",
        )
        read = sfn.Pass(
            self,
            "Read the model package",
            parameters={"image.$": f"{described}.InferenceSpecification.Containers[0].Image", "data.$": data},
            result_path="$.package",
        )
        has_golden = sfn.Choice(self, "Does it have golden queries?")
        with_golden = sfn.Pass(self, "Take its golden queries", input_path=golden, result_path="$.package.golden")
        without = sfn.Pass(self, "No golden queries", result=sfn.Result.from_string("none"), result_path="$.package.golden")
        done = sfn.Pass(self, "Forget the description", result=sfn.Result.from_object({}), result_path=described)
        check = sfn.Choice(self, "Can it be deployed?")
        is_approved = sfn.Condition.string_equals("$.described.ModelApprovalStatus", "Approved")
        check.when(sfn.Condition.not_(is_approved), unapproved)
        check.when(sfn.Condition.is_not_present(data), no_prefix).otherwise(read)
        read.next(has_golden)
        has_golden.when(sfn.Condition.is_present(golden), with_golden).otherwise(without)
        with_golden.next(done)
        without.next(done)
        return check, done

    # ---------------------------------------------------------------- rolling over

    def _roll_over(self, failed: FailureTail) -> sfn.Chain:
        serving, poll = self._settings.serving, self._settings.release.poll_seconds
        before = self._describe_endpoint("Describe the endpoint", "$.before", failed)
        ready = sfn.Choice(self, "Is the endpoint ready?")
        wait_before = sfn.Wait(self, "Wait for the endpoint", time=sfn.WaitTime.duration(cdk.Duration.seconds(poll)))
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
        name = sfn.Pass(
            self,
            "Name the new configuration",
            parameters={"name.$": f"States.Format('{self._endpoint}-{{}}', States.UUID())"},
            result_path="$.next",
        )
        model = call(
            self,
            "Create the model",
            "aws-sdk:sagemaker:createModel",
            {
                "ModelName.$": "$.next.name",
                "ExecutionRoleArn": self._endpoint_role.role_arn,
                "PrimaryContainer": container("$.package.image", "$.package.data"),
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
                "ProductionVariants": [{"ModelName.$": "$.next.name", **production_variant(serving)}],
            },
            comment="The settings' instances, the new model",
            failure=failed,
        )
        update = self._update_endpoint("Update the endpoint", "$.next.name", failed)
        wait = sfn.Wait(self, "Wait for the update", time=sfn.WaitTime.duration(cdk.Duration.seconds(poll)))
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

        is_config = sfn.Condition.string_equals_json_path("$.after.EndpointConfigName", "$.next.name")
        in_service = sfn.Condition.string_equals("$.after.EndpointStatus", "InService")
        before.next(ready)
        ready.when(sfn.Condition.string_equals("$.before.EndpointStatus", "InService"), name)
        ready.when(sfn.Condition.string_equals("$.before.EndpointStatus", "Failed"), broken).otherwise(wait_before)
        wait_before.next(before)
        name.next(model).next(config).next(update).next(wait).next(after).next(updated)
        updated.when(sfn.Condition.and_(in_service, is_config), smoke)
        updated.when(
            sfn.Condition.or_(in_service, sfn.Condition.string_equals("$.after.EndpointStatus", "Failed")), rolled_back
        ).otherwise(wait)
        rolled_back.next(rolled_back_reason).next(failed.start)
        smoke.next(self._record_live("Record the live model", failed, "live", "Deployed"))
        return sfn.Chain.start(before)

    def _record_only(self, failed: FailureTail) -> sfn.Chain:
        return sfn.Chain.start(self._record_live("Record the model to start with", failed, "recorded", "Recorded"))

    def _record_live(self, name: str, failed: FailureTail, status: str, ending: str) -> sfn.CustomState:
        verb = "is live" if status == "live" else "is chosen, and serving starts with it once serving.enabled is true"
        live = call(
            self,
            name,
            "aws-sdk:ssm:putParameter",
            {
                "Name": live_model_parameter(self._settings),
                "Value.$": "States.Format('{},{},{}', $.model_package, $.package.data, $.package.image)",
                "Overwrite": True,
            },
            comment="The serving stack reads it at every deploy",
            failure=failed,
        )
        notify = call(
            self,
            f"Notify: {status}",
            "sns:publish",
            {
                "TopicArn": self._data.topic.topic_arn,
                "Subject": f"{self._settings.prefix}: model {status}",
                "Message.$": f"States.Format('{{}} {verb}. Data: {{}}', $.model_package, $.package.data)",
            },
            comment="Whoever subscribed to the topic",
            failure=failed,
        )
        chain = live.next(self._record_release(f"Record the release as {status}", status, failed)).next(notify)
        chain.next(self._lock.give_back("Unlock")).next(sfn.Succeed(self, ending))
        return live

    def _record_release(self, name: str, status: str, failed: FailureTail | None = None) -> sfn.Chain:
        state = call(
            self,
            name,
            "dynamodb:putItem",
            {
                "TableName": self._table,
                "Item": {
                    "id": {"S.$": "$.model_package"},
                    "status": {"S": status},
                    "execution": {"S.$": "$$.Execution.Id"},
                    "at": {"S.$": "$$.State.EnteredTime"},
                },
            },
            comment="The retraining that waits for this release reads it",
            failure=failed,
        )
        return sfn.Chain.start(state)

    def _record_failure(self) -> sfn.Chain:
        state = call(
            self,
            "Record the failure",
            "dynamodb:putItem",
            {
                "TableName": self._table,
                "Item": {
                    "id": {"S.$": "$.model_package"},
                    "status": {"S": "failed"},
                    "reason": {"S.$": "$.failure.reason"},
                    "execution": {"S.$": "$$.Execution.Id"},
                    "at": {"S.$": "$$.State.EnteredTime"},
                },
            },
            comment="The retraining that waits for this release reads it",
        )
        return sfn.Chain.start(state)

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

    def _update_endpoint(self, name: str, config: str, failed: FailureTail, *, at_once: bool = False) -> sfn.CustomState:
        state = call(
            self,
            name,
            "aws-sdk:sagemaker:updateEndpoint",
            {
                "EndpointName": self._endpoint,
                "EndpointConfigName.$": config,
                # What autoscaling has set stays as it is.
                "RetainAllVariantProperties": True,
                # Alarms that the failed model set off must not stop the way back.
                **({} if at_once else rollout(self._settings)),
            },
            comment="Blue/green: the old instances answer until the new ones do",
        )
        # When even putting the old model back fails, the reason to report is still the first one.
        state.add_catch(failed.start, result_path=sfn.JsonPath.DISCARD if at_once else "$.error")
        return state

    @property
    def _table(self) -> str:
        return self._data.releases.table_name

    # ---------------------------------------------------------------- permissions

    def _allow(self, machine: LoggedStateMachine) -> None:
        stack, prefix = cdk.Stack.of(self), self._settings.prefix

        def arn(resource: str, name: str, service: str = "sagemaker", **kwargs: Any) -> str:
            return stack.format_arn(service=service, resource=resource, resource_name=name, **kwargs)

        allow_table(machine.role, self._data, self._data.releases, "GetItem", "PutItem", "DeleteItem")
        allow_publish(machine.role, self._data)
        machine.allow("ssm:GetParameter", "ssm:PutParameter", on=[self._data.live_model.parameter_arn])
        machine.allow("sagemaker:DescribeModelPackage", on=[arn("model-package", f"{prefix}/*")])
        machine.allow(
            "states:DescribeExecution",
            on=[arn("execution", f"{prefix}-deploy:*", "states", arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME)],
        )
        machine.allow("lambda:InvokeFunction", on=[self._smoke_test.function.function_arn])
        if not self._settings.serving.enabled:
            return
        endpoint = arn("endpoint", self._endpoint)
        models, configs = arn("model", f"{prefix}-*"), arn("endpoint-config", f"{prefix}-*")
        machine.allow("sagemaker:CreateModel", on=[models])
        machine.allow("sagemaker:CreateEndpointConfig", on=[configs, models])
        # The configuration to go back to may be the one that CloudFormation made and named.
        first = [self._first_config_arn] if self._first_config_arn else []
        machine.allow("sagemaker:UpdateEndpoint", on=[endpoint, configs, *first])
        machine.allow("sagemaker:DescribeEndpoint", on=[endpoint])
        machine.allow(
            "iam:PassRole",
            on=[self._endpoint_role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
