"""Step Functions: SageMaker jobs with ``.sync``, quotas, time limits and aborts, and AWS's error names.

MiniStack 1.5.33 has no ``sagemaker:*`` integration, lacks ``aws-sdk:s3:getObject`` and ``putObject``, passes payloads of
any size, ignores the ``TimeoutSeconds`` of a whole state machine, and lets the tasks of an aborted execution run on (whose
end then overwrites ABORTED). Its ``aws-sdk`` errors carry the wire code; AWS names them as the SDK for Java does, and an
error that the service's model doesn't know becomes the service's base exception: a Catch written for one is useless for
the other.
"""

from __future__ import annotations

import contextvars
import functools
import json
import re
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ministack import app
from ministack.core.responses import _service_model, get_region
from ministack.services import stepfunctions as sfn

from local_cloud.extensions.patching import Patcher

_MODULE = "ministack.services.stepfunctions"
PATCHED = tuple(
    (_MODULE, name)
    for name in (
        "_execute_pass",
        "_execute_task",
        "_execute_parallel",
        "_execute_map",
        "_execute_wait",
        "_start_execution",
        "_fail_execution",
        "_invoke_resource_with_timeout",
        "_prefix_sdk_error",
        "_api_name_to_sfn_key",
        "_invoke_sns_publish",
        "_invoke_nested_start_execution_sync",
        "_dispatch_aws_sdk_rest_xml",
        "_SERVICE_DISPATCH",
        "_AWS_SDK_SERVICE_MAP",
        "_AWS_SDK_ERROR_PREFIX",
    )
)

PAYLOAD_LIMIT = 256 * 1024  # bytes of a state's input or output
POLL_SECONDS = 0.3

# The execution whose status says whether a task may go on: a child of a Distributed Map follows its parent.
current_execution: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("sfn_execution", default=None)
_timed_out: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("sfn_timed_out", default=None)

PARENT = "parentExecutionArn"  # of a child of a Distributed Map; kept in MiniStack's execution record


def root_execution(execution: dict[str, Any]) -> dict[str, Any]:
    """The execution that a person started, of which this one may be a child."""
    while (parent := sfn._executions.get(execution.get(PARENT) or "")) is not None:
        execution = parent
    return execution


def is_running(execution: dict[str, Any] | None) -> bool:
    """Whether the execution may go on."""
    return execution is None or root_execution(execution)["status"] == "RUNNING"


# ---------------------------------------------------------------------------------------------------------------------
# SageMaker


@dataclass(frozen=True)
class _Job:
    """An API action with a ``.sync`` form: how to watch and to stop what it started."""

    name: str
    status: str
    describe: str
    stop: str


_JOBS = {
    "createTrainingJob": _Job("TrainingJobName", "TrainingJobStatus", "describeTrainingJob", "stopTrainingJob"),
    "createProcessingJob": _Job("ProcessingJobName", "ProcessingJobStatus", "describeProcessingJob", "stopProcessingJob"),
}
# The other actions of the optimised integration; the rest is reached as aws-sdk:sagemaker:*.
_PLAIN_ACTIONS = frozenset({"createEndpoint", "createEndpointConfig", "createModel", "updateEndpoint"})


def sagemaker(action: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Call the local SageMaker from an execution's thread."""
    return sfn._dispatch_aws_sdk_json(sfn._AWS_SDK_SERVICE_MAP["sagemaker"], "sagemaker", action, parameters)


def _invoke_sagemaker(resource: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """arn:aws:states:::sagemaker:<action>[.sync]"""
    action, _, pattern = resource.rsplit(":", 1)[1].partition(".")
    if action not in _JOBS and action not in _PLAIN_ACTIONS:
        raise sfn._ExecutionError("States.Runtime", f"The resource {resource} is not supported by the local cloud.")
    result = sagemaker(action, parameters)
    if pattern == "sync" and action in _JOBS:
        return _wait_for_job(_JOBS[action], parameters)
    return {"SdkHttpMetadata": {"HttpStatusCode": 200}, **result}


def _wait_for_job(job: _Job, parameters: dict[str, Any]) -> dict[str, Any]:
    """Poll until the job ends; a job that fails or is stopped fails the task with its own description as the cause."""
    selector = {job.name: parameters[job.name]}
    while True:
        description = sagemaker(job.describe, selector)
        status = description[job.status]
        if status == "Completed":
            return description
        if status in ("Failed", "Stopped"):
            raise sfn._ExecutionError("States.TaskFailed", json.dumps(description, ensure_ascii=False))
        expired = _timed_out.get()
        if status == "InProgress" and (not is_running(current_execution.get()) or (expired and expired.is_set())):
            sagemaker(job.stop, selector)
            raise sfn._ExecutionError("States.TaskFailed", f"The execution ended before job {selector[job.name]}")
        time.sleep(POLL_SECONDS)


# ---------------------------------------------------------------------------------------------------------------------
# Nested executions


def _run_nested(resource: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """arn:aws:states:::states:startExecution.sync[:2]: a child execution like any other, which emits its own events.

    MiniStack runs it as a synchronous express execution, of which no rule hears.
    """
    started = sfn._invoke_nested_start_execution(resource, parameters)
    child = sfn._executions[started["ExecutionArn"]]
    while child["status"] == "RUNNING":
        expired = _timed_out.get()
        if not is_running(current_execution.get()) or (expired and expired.is_set()):
            sfn._stop_execution({"executionArn": child["executionArn"]})
            break
        time.sleep(POLL_SECONDS)
    described = json.loads(sfn._describe_execution({"executionArn": child["executionArn"]})[2])
    shown = {f"{name[:1].upper()}{name[1:]}": value for name, value in described.items() if value is not None}
    if child["status"] != "SUCCEEDED":
        raise sfn._ExecutionError("States.TaskFailed", json.dumps(shown, ensure_ascii=False))
    if resource.endswith(".sync:2"):
        shown["Output"] = json.loads(shown["Output"])
    return shown


# ---------------------------------------------------------------------------------------------------------------------
# Names of errors


@functools.lru_cache(maxsize=1024)
def java_exception(service: str, code: str) -> str | None:
    """The SDK for Java's exception for an error code of a service, or None where the service's model lacks it."""
    model = _service_model(service)
    if model is None:
        return f"{code}"
    for shape in model.error_shapes:
        if code in (shape.name, shape.error_code):
            return shape.name.removesuffix("Fault").removesuffix("Exception") + "Exception"
    return None


def _prefix_sdk_error(original: Any) -> Any:
    def prefix(service_name: str, error_code: str) -> str:
        code = error_code.rsplit("#", 1)[-1]
        info = sfn._AWS_SDK_SERVICE_MAP.get(service_name) or {}
        if code.startswith("States.") or info.get("protocol") != "json":
            return original(service_name, code)
        name = sfn._AWS_SDK_ERROR_PREFIX.get(service_name, service_name.capitalize())
        return f"{name}.{java_exception(info.get('service_key', service_name), code) or name + 'Exception'}"

    return prefix


def java_member(name: str) -> str:
    """A member's name as Step Functions spells it: only a leading run of capitals is lowered (DBName, VolumeSizeInGB).

    MiniStack lowers every run, which renames VolumeSizeInGB to VolumeSizeIngb.
    """
    run = len(name) - len(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    if run < 2:
        return name[:1].upper() + name[1:]
    lowered = run if run == len(name) or not name[run].islower() else run - 1
    return name[:1] + name[1:lowered].lower() + name[lowered:]


def _sns_publish(original: Any) -> Any:
    def publish(resource: str, parameters: dict[str, Any]) -> dict[str, Any]:
        message = parameters.get("Message")
        if message is not None and not isinstance(message, str):
            # Step Functions sends an object as its JSON text; SNS itself takes text only.
            parameters = {**parameters, "Message": json.dumps(message, ensure_ascii=False)}
        return original(resource, parameters)

    return publish


# ---------------------------------------------------------------------------------------------------------------------
# S3 objects


def _dispatch_s3_objects(original: Any) -> Any:
    def dispatch(info: dict[str, Any], service_name: str, action: str, parameters: dict[str, Any]) -> Any:
        if service_name == "s3" and action == "getObject":
            headers, body = _s3_request("GET", parameters)
            return {**headers, "Body": body.decode("utf-8")}
        if service_name == "s3" and action == "putObject":
            headers, _ = _s3_request("PUT", parameters)
            return headers
        return original(info, service_name, action, parameters)

    return dispatch


def _s3_request(method: str, parameters: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Send one object's request to the local S3; return the answer's headers by member name, and its body."""
    body = parameters.get("Body", "")
    if not isinstance(body, str):
        body = json.dumps(body, ensure_ascii=False, separators=(",", ":"))  # as Step Functions writes an object
    headers = {
        "host": "s3.amazonaws.com",
        "content-type": parameters.get("ContentType", "application/octet-stream"),
        # As MiniStack's own dispatchers sign: the handler asks for a caller, the role has been checked before.
        "authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{get_region()}/s3/aws4_request",
    }
    path = f"/{parameters['Bucket']}/{quote(parameters['Key'])}"
    status, answered, content = app.call_service_handler_sync(
        app.SERVICE_HANDLERS["s3"], method, path, headers, body.encode() if method == "PUT" else b"", {}
    )
    content = content.encode() if isinstance(content, str) else content or b""
    if status >= 300:
        code = re.search(rb"<Code>(\w+)</Code>", content)
        message = re.search(rb"<Message>([^<]*)</Message>", content)
        name = java_exception("s3", code.group(1).decode()) if code else None
        raise sfn._ExecutionError(f"S3.{name or 'S3Exception'}", message.group(1).decode() if message else str(status))
    named = {"etag": "ETag", "content-type": "ContentType", "last-modified": "LastModified", "content-length": "ContentLength"}
    return {named[key.lower()]: value for key, value in answered.items() if key.lower() in named}, content


# ---------------------------------------------------------------------------------------------------------------------
# Quotas and the end of an execution


def _limited(original: Any) -> Any:
    """Wrap the function of a state: no state runs in an ended execution, and its output is limited."""

    def run(state: dict[str, Any], raw_input: Any, *args: Any, **kwargs: Any) -> Any:
        execution = args[0] if len(args) > 1 else current_execution.get()
        if not is_running(execution):
            raise sfn._ExecutionError("States.Runtime", "The execution ended")
        token = current_execution.set(execution)
        try:
            output, next_state = original(state, raw_input, *args, **kwargs)
        finally:
            current_execution.reset(token)
        if _size(output) > PAYLOAD_LIMIT:
            raise sfn._ExecutionError(
                "States.DataLimitExceeded",
                "The state/task returned a result with a size exceeding the maximum number of bytes service limit.",
            )
        return output, next_state

    return run


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _start_execution(original: Any) -> Any:
    def start(data: dict[str, Any]) -> Any:
        if len((data.get("input") or "").encode()) > PAYLOAD_LIMIT:
            return sfn.error_response_json("InvalidExecutionInput", f"Input exceeds the maximum of {PAYLOAD_LIMIT} bytes", 400)
        # Started by another execution, it goes on when that has ended.
        token = current_execution.set(None)
        try:
            response = original(data)
        finally:
            current_execution.reset(token)
        if response[0] == 200:
            _limit_time(json.loads(response[2])["executionArn"])
        return response

    return start


def _limit_time(execution_arn: str) -> None:
    """End the execution as TIMED_OUT when the state machine's TimeoutSeconds have passed."""
    machine = sfn._state_machines.get(sfn._executions[execution_arn]["stateMachineArn"])
    seconds = json.loads(machine["definition"]).get("TimeoutSeconds")
    if not seconds:
        return
    scope = contextvars.copy_context()
    timer = threading.Timer(seconds * sfn._SFN_WAIT_SCALE, scope.run, (_time_out, execution_arn))
    timer.daemon = True
    timer.start()


def _time_out(execution_arn: str) -> None:
    execution = sfn._executions.get(execution_arn)
    if execution is None or execution["status"] != "RUNNING":
        return
    execution["status"] = "TIMED_OUT"
    execution["stopDate"] = sfn.now_iso()
    sfn._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
    sfn._emit_execution_status_event(execution)


def _fail_execution(original: Any) -> Any:
    def fail(execution: dict[str, Any], error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":  # an abort or time-out has the last word
            original(execution, error, cause)

    return fail


def _invoke_with_timeout(original: Any) -> Any:
    def invoke(resource: str, parameters: Any, timeout: float) -> Any:
        expired = threading.Event()
        token = _timed_out.set(expired)
        try:
            return original(resource, parameters, timeout)
        except sfn._ExecutionError as error:
            if error.error == "States.Timeout":
                expired.set()  # so that the job the task waits for is stopped
            raise
        finally:
            _timed_out.reset(token)

    return invoke


def install(patch: Patcher) -> None:
    """Add the SageMaker integration and AWS's limits."""
    for name in ("_execute_pass", "_execute_task", "_execute_parallel", "_execute_map", "_execute_wait"):
        patch.replace(sfn, name, _limited)
    patch.replace(sfn, "_start_execution", _start_execution)
    patch.replace(sfn, "_fail_execution", _fail_execution)
    patch.replace(sfn, "_invoke_resource_with_timeout", _invoke_with_timeout)
    patch.replace(sfn, "_prefix_sdk_error", _prefix_sdk_error)
    patch.replace(sfn, "_api_name_to_sfn_key", lambda _: java_member)
    patch.replace(sfn, "_invoke_sns_publish", _sns_publish)
    patch.replace(sfn, "_invoke_nested_start_execution_sync", lambda _: _run_nested)
    patch.replace(sfn, "_dispatch_aws_sdk_rest_xml", _dispatch_s3_objects)
    patch.replace(
        sfn,
        "_SERVICE_DISPATCH",
        lambda table: {
            **table,
            "arn:aws:states:::sns:publish": sfn._invoke_sns_publish,
            "arn:aws:states:::sagemaker:": _invoke_sagemaker,
        },
    )
    target = {"target_prefix": "SageMaker", "protocol": "json"}
    patch.replace(sfn, "_AWS_SDK_SERVICE_MAP", lambda table: {"sagemaker": target, **table})
    patch.replace(sfn, "_AWS_SDK_ERROR_PREFIX", lambda table: {"sagemaker": "SageMaker", **table})
