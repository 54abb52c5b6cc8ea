"""The role of a state machine, evaluated on every call that it makes.

MiniStack 1.5.33 lets a state machine do everything, since its tasks call the services in-process. On AWS each task,
the reader and writer of a Distributed Map, and the start of the map's children are requests in the role's name, and
passing a role to SageMaker needs ``iam:PassRole``. The error's name tells a Catch which service refused: the optimised
integrations speak the SDK for Java 1 (``SageMaker.AmazonSageMakerException``), ``aws-sdk`` ones version 2
(``SageMaker.SageMakerException``). A ``.sync`` task needs permission to manage an EventBridge rule, which AWS checks when
the state machine is created.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Iterator
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import stepfunctions as sfn

from local_cloud.extensions import iam
from local_cloud.extensions.patching import Patcher
from local_cloud.extensions.step_functions import java_exception

_MODULE = "ministack.services.stepfunctions"
PATCHED = (
    *(
        (_MODULE, name)
        for name in (
            "_execute_task",
            "_invoke_resource",
            "_invoke_with_callback",
            "_invoke_aws_sdk_integration",
            "_dispatch_aws_sdk_json",
            "_run_distributed_map",
            "_create_state_machine",
            "_update_state_machine",
        )
    ),
    ("ministack.app", "call_service_handler_sync"),
)

# The role and execution name of the task that runs in this thread.
_acting: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("sfn_acting", default=None)
# Set while a task calls a service's handler: the SDK's service name and what to call a refusal.
_calling: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("sfn_calling", default=None)

# Refusals of the optimised integrations: the SDK for Java 1's base exceptions, as DynamoDB's and SQS's models know none.
_OPTIMISED_ERRORS = {
    "lambda": "Lambda.AWSLambdaException",
    "dynamodb": "DynamoDB.AmazonDynamoDBException",
    "sns": "SNS.AuthorizationErrorException",
    "sqs": "SQS.AmazonSQSException",
    "events": "EventBridge.AmazonEventBridgeException",
    "sagemaker": "SageMaker.AmazonSageMakerException",
    "states": "StepFunctions.AWSStepFunctionsException",
}

# Whether autoscaling has an endpoint's variants among its targets; the local SageMaker says so once it is there.
scaled: list[Callable[[str], bool]] = []

_MANAGED_RULES = {
    "sagemaker:createTrainingJob.sync": "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
    "sagemaker:createProcessingJob.sync": "StepFunctionsGetEventsForSageMakerProcessingJobsRule",
    "states:startExecution.sync": "StepFunctionsGetEventsForStepFunctionsExecutionRule",
}


def _need(action: str, resource: str, error: str, context: dict[str, Any] | None = None) -> None:
    """Fail the task unless the acting role is allowed."""
    acting = _acting.get()
    if acting is None:
        return
    role, session = acting
    refused = iam.denial(role, action, resource, context, session=session)
    if refused is not None:
        raise sfn._ExecutionError(error, str(refused))


def _machine_of(execution: dict[str, Any]) -> dict[str, Any]:
    return sfn._state_machines[execution["stateMachineArn"].split("/")[0]]


def _acting_for(execution: dict[str, Any]) -> tuple[str, str]:
    return _machine_of(execution)["roleArn"], execution["name"][:64]


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


def _execute_task(original: Any) -> Any:
    def execute(state: dict[str, Any], raw_input: Any, execution: dict[str, Any], ctx: dict[str, Any]) -> Any:
        token = _acting.set(_acting_for(execution))
        # Services call each other over TLS: a policy that denies plain HTTP must not refuse an execution that no request
        # started, such as an event of a job's thread.
        iam_evaluator.pin_request_origin("127.0.0.1", True)
        try:
            return original(state, raw_input, execution, ctx)
        finally:
            _acting.reset(token)

    return execute


def _invoke_resource(original: Any) -> Any:
    def invoke(resource: str, parameters: Any) -> Any:
        _authorise_optimised(resource, parameters)
        return original(resource, parameters)

    return invoke


def _invoke_with_callback(original: Any) -> Any:
    def invoke(resource: str, parameters: Any, token: str, state: dict[str, Any]) -> Any:
        _authorise_optimised(resource.replace(".waitForTaskToken", ""), parameters)
        return original(resource, parameters, token, state)

    return invoke


def _authorise_optimised(resource: str, parameters: Any) -> None:
    """Check the integrations that MiniStack calls as functions; the others are checked at the service's handler."""
    if resource.startswith("arn:aws:lambda:"):
        _need("lambda:InvokeFunction", resource, _OPTIMISED_ERRORS["lambda"])
        return
    if not resource.startswith("arn:aws:states:::") or ":aws-sdk:" in resource:
        return
    service, _, action = resource.removeprefix("arn:aws:states:::").partition(":")
    action, _, pattern = action.partition(".")
    if service not in _OPTIMISED_ERRORS or service == "sagemaker":
        return
    for iam_action, target in _optimised_edges(service, action, parameters):
        _need(iam_action, target, _OPTIMISED_ERRORS[service])
    if service == "states" and pattern.startswith("sync"):
        child = parameters.get("StateMachineArn", "").replace(":stateMachine:", ":execution:")
        _need("states:DescribeExecution", f"{child}:{parameters.get('Name', 'child')}", _OPTIMISED_ERRORS[service])


def _optimised_edges(service: str, action: str, parameters: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """``(IAM action, resource)`` of an optimised integration."""
    region, account = get_region(), get_account_id()
    if service == "lambda":
        function = parameters.get("FunctionName", "")
        if not function.startswith("arn:"):
            function = f"arn:aws:lambda:{region}:{account}:function:{function.rpartition('function:')[2]}"
        yield "lambda:InvokeFunction", function
    elif service == "dynamodb":
        table = parameters.get("TableName", "")
        if not table.startswith("arn:"):
            table = f"arn:aws:dynamodb:{region}:{account}:table/{table}"
        yield f"dynamodb:{action[:1].upper()}{action[1:]}", table
    elif service == "sns":
        yield "sns:Publish", parameters.get("TopicArn") or parameters.get("TargetArn") or "*"
    elif service == "sqs":
        yield "sqs:SendMessage", f"arn:aws:sqs:{region}:{account}:{parameters.get('QueueUrl', '').rsplit('/', 1)[-1]}"
    elif service == "states":
        yield "states:StartExecution", parameters.get("StateMachineArn", "*")
    elif service == "events":
        for entry in parameters.get("Entries") or []:
            bus = entry.get("EventBusName") or "default"
            yield "events:PutEvents", bus if bus.startswith("arn:") else f"arn:aws:events:{region}:{account}:event-bus/{bus}"


# ---------------------------------------------------------------------------------------------------------------------
# Calls of a service's handler: aws-sdk:<service>:<action> and the optimised SageMaker integration


def _invoke_aws_sdk(original: Any) -> Any:
    def invoke(resource: str, parameters: Any) -> Any:
        service = resource.split(":")[6].lower()
        info = sfn._AWS_SDK_SERVICE_MAP.get(service) or {}
        prefix = sfn._AWS_SDK_ERROR_PREFIX.get(service, service.capitalize())
        modelled = java_exception(info.get("service_key", service), "AccessDeniedException")
        token = _calling.set((service, f"{prefix}.{modelled or prefix + 'Exception'}"))
        try:
            return original(resource, parameters)
        finally:
            _calling.reset(token)

    return invoke


def _dispatch_json(original: Any) -> Any:
    def dispatch(info: dict[str, Any], service: str, action: str, parameters: dict[str, Any]) -> Any:
        optimised = _calling.get() is None and service in _OPTIMISED_ERRORS
        token = _calling.set((service, _OPTIMISED_ERRORS[service])) if optimised else None
        try:
            return original(info, service, action, parameters)
        finally:
            if token is not None:
                _calling.reset(token)

    return dispatch


def _call_handler(original: Any) -> Any:
    def call(
        handler: Callable[..., Any],
        method: str,
        path: str,
        headers: dict[str, Any],
        body: bytes | str,
        query_params: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        calling = _calling.get()
        if calling is not None and _acting.get() is not None:
            service = (sfn._AWS_SDK_SERVICE_MAP.get(calling[0]) or {}).get("service_key", calling[0])
            raw = body.encode() if isinstance(body, str) else body or b""
            _authorise_request(service, calling[1], method, path, headers, raw, query_params)
        return original(handler, method, path, headers, body, query_params, *args, **kwargs)

    return call


def _authorise_request(
    service: str, error: str, method: str, path: str, headers: dict[str, Any], body: bytes, query_params: dict[str, Any]
) -> None:
    """Evaluate a request as MiniStack would if it came over HTTP."""
    action = iam_actions.extract_iam_action(service, method, path, headers, body, query_params)
    if action is None:
        return
    if service == "sagemaker":
        _authorise_sagemaker(action, iam._json_object(body), error)
        return
    if service == "application-autoscaling":
        _authorise_scaling(action, iam._json_object(body), error)
        return
    params = query_params or app._routing_params(method, path, headers, body, query_params)
    resource = iam_actions.extract_resource_arn(service, method, path, headers, body, params, get_region(), get_account_id())
    _need(action, resource, error)


def _authorise_sagemaker(action: str, parameters: dict[str, Any], error: str) -> None:
    resources = iam.sagemaker_resources(action, parameters)
    for resource in resources:
        _need(action, resource, error)
    if parameters.get("Tags") and ":Create" in action:
        _need("sagemaker:AddTags", resources[0], error)
    rollback = parameters.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {})
    for alarm in rollback.get("Alarms", ()):
        # Whoever asks for an automatic rollback must see its alarms, as the endpoint's own role must.
        name = f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{alarm['AlarmName']}"
        _need("cloudwatch:DescribeAlarms", name, error)
    for field in ("RoleArn", "ExecutionRoleArn"):
        if parameters.get(field):
            _need("iam:PassRole", parameters[field], error, {"iam:PassedToService": "sagemaker.amazonaws.com"})
    endpoint = str(parameters.get("EndpointName"))
    if action == "sagemaker:DeleteEndpoint" and any(has(endpoint) for has in scaled):
        try:
            _need("application-autoscaling:DeregisterScalableTarget", _scalable_target(), error, _VARIANTS)
        except sfn._ExecutionError:
            raise sfn._ExecutionError(
                error,
                "An Application AutoScaling scalable target exists for a variant being deleted, and the IAM identity used to "
                "invoke DeleteEndpoint does not have application-autoscaling:DeregisterScalableTarget permission to deregister "
                "the scalable target.",
            ) from None


_VARIANTS = {
    "application-autoscaling:service-namespace": "sagemaker",
    "application-autoscaling:scalable-dimension": "sagemaker:variant:DesiredInstanceCount",
}


def _scalable_target() -> str:
    """The ARN of some target: its id is nobody's to know."""
    return f"arn:aws:application-autoscaling:{get_region()}:{get_account_id()}:scalable-target/0ec5b4d6"


def _authorise_scaling(action: str, parameters: dict[str, Any], error: str) -> None:
    """What autoscaling does to endpoint and alarms has to be allowed to who has it done.

    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-prerequisites.html
    """
    resource, region, account = str(parameters.get("ResourceId")), get_region(), get_account_id()
    context = {
        "application-autoscaling:service-namespace": parameters.get("ServiceNamespace"),
        "application-autoscaling:scalable-dimension": parameters.get("ScalableDimension"),
    }
    _need(action, _scalable_target(), error, context)
    if action.endswith(":RegisterScalableTarget"):
        endpoint = f"arn:aws:sagemaker:{region}:{account}:{'/'.join(resource.split('/')[:2])}"
        for needed in ("sagemaker:DescribeEndpoint", "sagemaker:UpdateEndpointWeightsAndCapacities"):
            _need(needed, endpoint, error)
    if action.endswith(":PutScalingPolicy"):
        alarm = f"arn:aws:cloudwatch:{region}:{account}:alarm:TargetTracking-{resource}-AlarmHigh-0ec5b4d6"
        for needed in ("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"):
            _need(needed, alarm, error)


# ---------------------------------------------------------------------------------------------------------------------
# Distributed Map


def _distributed_map(original: Any) -> Any:
    def run(
        state: dict[str, Any],
        raw_input: Any,
        effective: Any,
        processor: dict[str, Any],
        execution: dict[str, Any],
        ctx: dict[str, Any],
    ) -> Any:
        token = _acting.set(_acting_for(execution))
        try:
            machine = execution["stateMachineArn"].split("/")[0]
            _need("states:StartExecution", machine, _OPTIMISED_ERRORS["states"])
            for part, error in (("ItemReader", "States.ItemReaderFailed"), ("ResultWriter", "States.ResultWriterFailed")):
                for action, resource in _map_edges(state.get(part) or {}, effective, ctx):
                    _need(action, resource, error)
            return original(state, raw_input, effective, processor, execution, ctx)
        finally:
            _acting.reset(token)

    return run


def _map_edges(part: dict[str, Any], effective: Any, ctx: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """``(IAM action, resource)`` of an ItemReader or ResultWriter."""
    template = part.get("Parameters") or part.get("Arguments")
    if not template:
        return
    place = sfn._resolve_params_obj(template, effective, ctx)
    bucket = f"arn:aws:s3:::{place.get('Bucket')}"
    operation = part.get("Resource", "").rsplit(":", 1)[-1]
    if operation == "getObject":
        yield "s3:GetObject", f"{bucket}/{place.get('Key')}"
    elif operation == "listObjectsV2":
        yield "s3:ListBucket", bucket
    elif operation == "putObject":
        # AWS writes results in parts.
        prefix = f"{bucket}/{place.get('Prefix', '').strip('/')}".rstrip("/")
        for action in ("s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"):
            yield action, f"{prefix}/map-run/manifest.json"


# ---------------------------------------------------------------------------------------------------------------------
# Creation


def _checked_machine(original: Any) -> Any:
    """Refuse a state machine whose role Step Functions can't assume, or may not manage the rules of ``.sync`` tasks."""

    def save(data: dict[str, Any]) -> Any:
        existing = sfn._state_machines.get(data.get("stateMachineArn") or "") or {}
        role = data.get("roleArn") or existing.get("roleArn") or ""
        problem = _role_problem(role, data.get("definition") or existing.get("definition") or "") if role else None
        if problem:
            return sfn.error_response_json("AccessDeniedException", problem, 400)
        return original(data)

    return save


def _role_problem(role: str, definition: str) -> str | None:
    if not iam.trusts(role, "states.amazonaws.com"):
        return (
            "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to assume the "
            f"provided role: {role}"
        )
    for resource in sorted(set(_task_resources(definition))):
        rule = _MANAGED_RULES.get(resource.removeprefix("arn:aws:states:::").removesuffix(":2"))
        arn = f"arn:aws:events:{get_region()}:{get_account_id()}:rule/{rule}"
        for action in ("events:PutTargets", "events:PutRule", "events:DescribeRule") if rule else ():
            refused = iam.denial(role, action, arn, session="StepFunctions")
            if refused:
                return f"'{role}' is not authorized to create managed-rule '{rule}': {refused}"
    return None


def _task_resources(definition: str) -> Iterator[str]:
    """The ``Resource`` of every state, however deep."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if value.get("Type") == "Task" and isinstance(value.get("Resource"), str):
                yield value["Resource"]
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    try:
        yield from walk(json.loads(definition))
    except ValueError:
        return  # MiniStack itself answers for a definition that isn't JSON


def install(patch: Patcher) -> None:
    """Check the role on every edge."""
    patch.replace(sfn, "_execute_task", _execute_task)
    patch.replace(sfn, "_invoke_resource", _invoke_resource)
    patch.replace(sfn, "_invoke_with_callback", _invoke_with_callback)
    patch.replace(sfn, "_invoke_aws_sdk_integration", _invoke_aws_sdk)
    patch.replace(sfn, "_dispatch_aws_sdk_json", _dispatch_json)
    patch.replace(sfn, "_run_distributed_map", _distributed_map)
    patch.replace(sfn, "_create_state_machine", _checked_machine)
    patch.replace(sfn, "_update_state_machine", _checked_machine)
    patch.replace(app, "call_service_handler_sync", _call_handler)
