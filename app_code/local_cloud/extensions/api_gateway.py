"""API Gateway REST APIs: keys out of an authorizer, permission to call functions, errors that tell nothing, access logs.

What MiniStack 1.5.33 lacks and AWS does:

- ``apiKeySource: AUTHORIZER``: the key is the ``usageIdentifierKey`` that the REQUEST authorizer returns;
- the caller's ``apiKeyId`` in ``requestContext.identity``;
- a function, an authorizer's too, must allow ``apigateway.amazonaws.com`` for the method or authorizer: without that AWS
  answers 500;
- a failed function is a 502 "Internal server error" (here its error went out), rendered by the DEFAULT_5XX response;
- a function that answers after the integration's time is a 504;
- a body that the function can't take is a 413, REQUEST_TOO_LARGE;
- from CloudFormation: ``ApiKeySourceType``, ``DisableExecuteApiEndpoint``, request validators, a stage's access log, and its
  settings of single methods, throttles among them, whose paths a template writes as ``/~1health``;
- the access log itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import apigateway_v1 as gateway
from ministack.services import cloudwatch_logs, lambda_svc
from ministack.services.cloudformation import provisioners

from local_cloud.extensions import iam
from local_cloud.extensions.patching import Patcher

_MODULE = "ministack.services.apigateway_v1"
PATCHED = (
    *(
        (_MODULE, name)
        for name in (
            "_handle_execute_in_scope",
            "_execute_in_scope",
            "_invoke_authorizer_lambda",
            "_evaluate_policy",
            "_api_key_from_request",
            "_build_lambda_event_v1",
            "_invoke_lambda_proxy_v1",
            "_lambda_proxy_response",
            "_gateway_error_response",
            "_create_rest_api",
            "_put_method",
            "_update_api_key",
            "_create_stage",
        )
    ),
    ("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS"),
    ("ministack.services.cloudformation.provisioners", "_apigw_method_settings"),
)

logger = logging.getLogger("local_cloud")

_SERVICE = "apigateway.amazonaws.com"
_USAGE_KEY = "usageIdentifierKey"
REQUEST_LIMIT = 10 * 1024 * 1024  # bytes of a request's body


@dataclass
class _Call:
    """What one request's parts must know of each other."""

    key_source: str
    usage_key: str = ""
    error: str = ""


_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("api_call", default=None)


class _FunctionFailed(Exception):
    """The integration's function failed, or answered with something that is no proxy response."""


class _StatusError(gateway._GatewayError):
    """An error of API Gateway with a status of its own, unless the gateway response sets one."""

    def __init__(self, response_type: str, message: str, status: int) -> None:
        super().__init__(response_type, message)
        self.status = status


# ---------------------------------------------------------------------------------------------------------------------
# Keys


def _execute(original: Any) -> Any:
    async def execute(request: dict[str, Any], api_id: str, stage_name: str, *args: Any) -> Any:
        source = (gateway._rest_apis.get(api_id) or {}).get("apiKeySource") or "HEADER"
        call = _call.get()
        if call is not None:
            call.key_source = source
        _, _, _, body, *_ = args  # method, path, headers, body, …
        if len(body or b"") > REQUEST_LIMIT:
            request["stage"] = gateway._stages_v1.get(api_id, {}).get(stage_name) or {}
            return gateway._gw_error("REQUEST_TOO_LARGE", "Request Too Long")
        return await original(request, api_id, stage_name, *args)

    return execute


def _key_of_request(original: Any) -> Any:
    def key(headers: dict[str, Any]) -> str:
        call = _call.get()
        if call is not None and call.key_source == "AUTHORIZER":
            return call.usage_key
        return original(headers)

    return key


def _invoke_authorizer(original: Any) -> Any:
    async def invoke(authorizer: dict[str, Any], event: dict[str, Any], account_id: str, region: str) -> dict[str, Any] | None:
        api_arn = event["methodArn"].split("/")[0]
        source = f"{api_arn}/authorizers/{authorizer.get('id', '')}"
        if not authorizer.get("authorizerCredentials") and not _may_invoke(authorizer.get("authorizerUri", ""), source):
            return None
        result = await original(authorizer, event, account_id, region)
        answer = (result or {}).get("body")
        if isinstance(answer, dict) and isinstance(answer.get("policyDocument"), dict):
            # Beside the policy, which is what MiniStack keeps when it caches an authorizer's answer.
            answer["policyDocument"][_USAGE_KEY] = str(answer.get(_USAGE_KEY) or "")
        return result

    return invoke


def _evaluate_policy(original: Any) -> Any:
    def evaluate(policy: dict[str, Any], method_arn: str) -> str:
        call = _call.get()
        if call is not None:
            call.usage_key = policy.get(_USAGE_KEY, "")
        return original(policy, method_arn)

    return evaluate


def _build_event(original: Any) -> Any:
    def build(
        api_id: str,
        stage_name: str,
        stage: dict[str, Any],
        resource: dict[str, Any],
        path: str,
        method: str,
        headers: dict[str, Any],
        *args: Any,
        **kw: Any,
    ) -> dict[str, Any]:
        event = original(api_id, stage_name, stage, resource, path, method, headers, *args, **kw)
        key = gateway._resolve_api_key(gateway._api_key_from_request(headers))
        if key is not None:
            event["requestContext"]["identity"].update(apiKey=key["value"], apiKeyId=key["id"])
        return event

    return build


# ---------------------------------------------------------------------------------------------------------------------
# Functions


def _may_invoke(integration_uri: str, source_arn: str) -> bool:
    """Whether the function's policy lets API Gateway invoke it for a method or authorizer."""
    reference = gateway._extract_lambda_ref_from_integration_uri(integration_uri)
    arn = reference
    if not arn.startswith("arn:"):
        arn = f"arn:aws:lambda:{get_region()}:{get_account_id()}:function:{reference.rpartition('function:')[2]}"
    found = lambda_svc.function_policy_for_arn(arn)
    if found is None:
        return True  # no such function: MiniStack's own answer
    if not iam.service_denial(found[0], _SERVICE, "lambda:InvokeFunction", arn, source_arn):
        return True
    logger.warning("API Gateway may not invoke %s for %s: add an AWS::Lambda::Permission", arn, source_arn)
    return False


def _invoke_proxy(original: Any) -> Any:
    async def invoke(
        integration: dict[str, Any],
        api_id: str,
        stage_name: str,
        stage: dict[str, Any],
        resource: dict[str, Any],
        path: str,
        method: str,
        *args: Any,
        **kw: Any,
    ) -> Any:
        source = f"arn:aws:execute-api:{get_region()}:{get_account_id()}:{api_id}/{stage_name}/{method}{resource['path']}"
        if not integration.get("credentials") and not _may_invoke(integration.get("uri", ""), source):
            return gateway._gw_error("API_CONFIGURATION_ERROR", "Internal server error")
        seconds = int(integration.get("timeoutInMillis") or 29_000) / 1000
        try:
            call_function = original(integration, api_id, stage_name, stage, resource, path, method, *args, **kw)
            return await asyncio.wait_for(call_function, seconds)
        except TimeoutError:
            return gateway._gw_error("INTEGRATION_TIMEOUT", "Endpoint request timed out")
        except _FunctionFailed as error:
            if call := _call.get():
                call.error = str(error)
            if str(error) == "RequestEntityTooLargeException":
                return gateway._gw_error("REQUEST_TOO_LARGE", "Request Too Long")
            return _StatusError("DEFAULT_5XX", "Internal server error", 502)

    return invoke


def _proxy_response(original: Any) -> Any:
    def respond(result: dict[str, Any]) -> Any:
        if result.get("throttle"):
            raise _FunctionFailed("TooManyRequestsException")
        answer = result.get("body")
        if result.get("error"):
            raise _FunctionFailed(answer.get("errorType", "Unhandled") if isinstance(answer, dict) else "Unhandled")
        if not isinstance(answer, dict) or not isinstance(answer.get("statusCode", 200), int | str):
            raise _FunctionFailed("malformed Lambda proxy response")
        if not isinstance(answer.get("body", ""), str | None):
            raise _FunctionFailed("malformed Lambda proxy response")
        return original(result)

    return respond


def _error_response(original: Any) -> Any:
    def respond(error: Any, request: dict[str, Any]) -> tuple[Any, ...]:
        call = _call.get()
        if call is not None and not call.error:
            call.error = error.message or error.response_type
        status, headers, body = original(error, request)
        if isinstance(error, _StatusError) and not _sets_status(error.response_type, request):
            status = error.status
        return status, headers, body

    return respond


def _sets_status(response_type: str, request: dict[str, Any]) -> bool:
    responses = gateway._deployed_gateway_responses.get(request["api_id"], {}).get(request["stage"].get("deploymentId"))
    return bool(((responses or {}).get(response_type) or {}).get("statusCode"))


# ---------------------------------------------------------------------------------------------------------------------
# Access log


def _handle(original: Any) -> Any:
    async def handle(
        api_id: str,
        stage_name: str,
        method: str,
        path: str,
        headers: dict[str, Any],
        body: bytes,
        query: dict[str, Any],
        account: str,
        region: str,
    ) -> tuple[Any, ...]:
        token = _call.set(_Call("HEADER"))
        started = time.time()
        try:
            response = await original(api_id, stage_name, method, path, headers, body, query, account, region)
            stage = gateway._stages_v1.get(api_id, {}).get(stage_name) or {}
            settings = stage.get("accessLogSettings") or {}
            if settings.get("destinationArn") and settings.get("format"):
                values = _log_values(api_id, stage_name, method, path, headers or {}, response, started)
                _write_access_log(settings, stage_name, values)
            return response
        finally:
            _call.reset(token)

    return handle


def _log_values(
    api_id: str, stage_name: str, method: str, path: str, headers: dict[str, Any], response: tuple[Any, ...], started: float
) -> dict[str, Any]:
    """The ``$context`` variables that API Gateway writes for a request."""
    status, response_headers, body = response[:3]
    resource, _ = gateway._match_resource_tree(api_id, [part for part in path.strip("/").split("/") if part])
    key = gateway._resolve_api_key(gateway._api_key_from_request(headers))
    request_id = gateway._header_ci(response_headers, "x-amzn-requestid") or gateway.new_uuid()
    elapsed = int((time.time() - started) * 1000)
    call = _call.get()
    return {
        "accountId": get_account_id(),
        "apiId": api_id,
        "error.message": call.error if call else "",
        "error.messageString": json.dumps(call.error) if call and call.error else "",
        "extendedRequestId": request_id,
        "httpMethod": method,
        "identity.apiKeyId": key["id"] if key else "",
        "identity.sourceIp": (gateway._header_ci(headers, "x-forwarded-for") or "127.0.0.1").split(",")[0].strip(),
        "identity.userAgent": gateway._header_ci(headers, "user-agent"),
        "integrationLatency": elapsed,
        "path": f"/{stage_name}{path}",
        "protocol": "HTTP/1.1",
        "requestId": request_id,
        "requestTime": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(started)),
        "requestTimeEpoch": int(started * 1000),
        "resourcePath": resource["path"] if resource else "",
        "responseLatency": elapsed,
        "responseLength": len(body) if isinstance(body, bytes | str) else 0,
        "stage": stage_name,
        "status": status,
    }


def render_access_log(template: str, values: dict[str, Any]) -> str:
    """Fill in an access log format; what has no value is ``-``, as on AWS."""

    def fill(match: re.Match[str]) -> str:
        value = values.get(match.group(1) or match.group(2), "")
        return "-" if value in ("", None) else str(value)

    return re.sub(r"\$\{context\.([\w.]+)\}|\$context\.(\w+(?:\.\w+)*)", fill, template)


def _write_access_log(settings: dict[str, Any], stage_name: str, values: dict[str, Any]) -> None:
    group = settings["destinationArn"].partition(":log-group:")[2].removesuffix(":*")
    stream = f"{stage_name}-{time.strftime('%Y-%m-%d', time.gmtime())}"
    cloudwatch_logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
    event = {"timestamp": values["requestTimeEpoch"], "message": render_access_log(settings["format"], values)}
    status, _, body = cloudwatch_logs._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": [event]})
    if status >= 400:
        logger.warning("The access log of stage %s is lost: %r", stage_name, body)


# ---------------------------------------------------------------------------------------------------------------------
# CloudFormation

# Properties of the resource now being provisioned that MiniStack's provisioner doesn't pass on to its API.
_extra: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("api_properties", default=None)


@contextmanager
def _with_extra(properties: dict[str, Any]) -> Iterator[None]:
    token = _extra.set({key: value for key, value in properties.items() if value is not None})
    try:
        yield
    finally:
        _extra.reset(token)


def _takes_extra(position: int) -> Callable[[Any], Any]:
    """Let an API function, whose data is the argument at a position, see the properties that were dropped."""

    def make(original: Any) -> Any:
        def call(*args: Any) -> Any:
            data = {**(_extra.get() or {}), **args[position]}
            return original(*args[:position], data, *args[position + 1 :])

        return call

    return make


def _passing(properties: Callable[[dict[str, Any]], dict[str, Any]], handler: Any) -> Any:
    """A create handler that passes the dropped properties on."""

    def create(logical_id: str, props: dict[str, Any], stack: str) -> Any:
        with _with_extra(properties(props)):
            return handler(logical_id, props, stack)

    return create


def _passing_update(properties: Callable[[dict[str, Any]], dict[str, Any]], handler: Any) -> Any:
    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str, *args: Any, **kwargs: Any
    ) -> Any:
        with _with_extra(properties(new_props)):
            return handler(physical_id, old_props, new_props, stack, *args, **kwargs)

    return update


def _api_properties(props: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiKeySource": props.get("ApiKeySourceType"),
        "disableExecuteApiEndpoint": props.get("DisableExecuteApiEndpoint"),
    }


def _method_properties(props: dict[str, Any]) -> dict[str, Any]:
    return {"requestValidatorId": props.get("RequestValidatorId")}


def _stage_properties(props: dict[str, Any]) -> dict[str, Any]:
    setting = props.get("AccessLogSetting")
    if not setting:
        return {}
    return {"accessLogSettings": {"destinationArn": setting.get("DestinationArn"), "format": setting.get("Format")}}


def _update_stage(handler: Any) -> Any:
    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str, *args: Any, **kwargs: Any
    ) -> Any:
        result = _passing_update(_stage_properties, handler)(physical_id, old_props, new_props, stack, *args, **kwargs)
        stage = gateway._stages_v1.get(new_props.get("RestApiId", ""), {}).get(new_props.get("StageName", ""))
        if stage is not None:
            stage["accessLogSettings"] = _stage_properties(new_props).get("accessLogSettings", {})
            stage["methodSettings"] = provisioners._apigw_method_settings(new_props.get("MethodSettings"))
        return result

    return update


def _method_settings(original: Any) -> Any:
    """Under the path of the resource itself: a template encodes the slashes in it, and MiniStack looks for none of that."""

    def settings(raw: Any) -> dict[str, Any]:
        if not isinstance(raw, list):
            return original(raw)
        return original([{**item, "ResourcePath": _resource_path(item.get("ResourcePath", "/*"))} for item in raw])

    return settings


def _resource_path(encoded: str) -> str:
    return "/" + encoded.replace("~1", "/").lstrip("/")


def _validator_data(logical_id: str, props: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": props.get("Name", logical_id),
        "validateRequestBody": str(props.get("ValidateRequestBody", False)).lower() == "true",
        "validateRequestParameters": str(props.get("ValidateRequestParameters", False)).lower() == "true",
    }


def _create_validator(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    status, _, body = gateway._create_request_validator(props["RestApiId"], _validator_data(logical_id, props))
    if status >= 400:
        raise ValueError(f"AWS::ApiGateway::RequestValidator create failed: {body!r}")
    identifier = json.loads(body)["id"]
    return identifier, {"RequestValidatorId": identifier}


def _update_validator(
    physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str
) -> tuple[str, dict[str, Any]]:
    if any(old_props.get(name) != new_props.get(name) for name in ("RestApiId", "Name")):
        return _create_validator(physical_id, new_props, stack)
    record = gateway._request_validators.get(new_props["RestApiId"], {}).get(physical_id)
    if record is None:
        return _create_validator(physical_id, new_props, stack)
    record.update({**_validator_data(record["name"], new_props), "name": record["name"]})
    return physical_id, {"RequestValidatorId": physical_id}


def _delete_validator(physical_id: str, props: dict[str, Any]) -> None:
    gateway._delete_request_validator(props.get("RestApiId", ""), physical_id)


def _extend_handlers(handlers: dict[str, Any]) -> dict[str, Any]:
    for kind, properties in (
        ("AWS::ApiGateway::RestApi", _api_properties),
        ("AWS::ApiGateway::Method", _method_properties),
        ("AWS::ApiGateway::Stage", _stage_properties),
    ):
        handler = handlers[kind]
        handler["create"] = _passing(properties, handler["create"])
        handler["update"] = _passing_update(properties, handler["update"])
    stage = handlers["AWS::ApiGateway::Stage"]
    stage["update"] = _update_stage(stage["update"])
    handlers["AWS::ApiGateway::RequestValidator"].update(
        create=_create_validator, update=_update_validator, delete=_delete_validator
    )
    return handlers


def _update_api_key(original: Any) -> Any:
    """A patch's values are strings, and MiniStack keeps ``enabled`` as one, which is true either way."""

    def update(key_id: str, data: dict[str, Any]) -> Any:
        answer = original(key_id, data)
        key = gateway._api_keys.get(key_id)
        if key is None or not isinstance(key.get("enabled"), str):
            return answer
        key["enabled"] = key["enabled"].lower() == "true"
        return gateway._v1_response(key)

    return update


def install(patch: Patcher) -> None:
    """Close the gaps of REST APIs."""
    patch.replace(gateway, "_handle_execute_in_scope", _handle)
    patch.replace(gateway, "_execute_in_scope", _execute)
    patch.replace(gateway, "_invoke_authorizer_lambda", _invoke_authorizer)
    patch.replace(gateway, "_evaluate_policy", _evaluate_policy)
    patch.replace(gateway, "_api_key_from_request", _key_of_request)
    patch.replace(gateway, "_build_lambda_event_v1", _build_event)
    patch.replace(gateway, "_invoke_lambda_proxy_v1", _invoke_proxy)
    patch.replace(gateway, "_lambda_proxy_response", _proxy_response)
    patch.replace(gateway, "_gateway_error_response", _error_response)
    patch.replace(gateway, "_create_rest_api", _takes_extra(0))
    patch.replace(gateway, "_put_method", _takes_extra(3))
    patch.replace(gateway, "_update_api_key", _update_api_key)
    patch.replace(gateway, "_create_stage", _takes_extra(1))
    patch.replace(provisioners, "_RESOURCE_HANDLERS", _extend_handlers)
    patch.replace(provisioners, "_apigw_method_settings", _method_settings)
