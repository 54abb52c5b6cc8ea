"""Application Auto Scaling, as far as endpoints are its targets: kept, shown, never acted on; and its CloudFormation types.

A target goes with its endpoint, and with it policies and scheduled actions, as on AWS
(https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-delete-with-scaling.html).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from local_cloud.sagemaker.context import Context, now
from local_cloud.sagemaker.errors import ApiError, invalid
from local_cloud.sagemaker.hosting import Hosting
from local_cloud.sagemaker.runtime import Response
from local_cloud.sagemaker.store import Record, shown
from local_cloud.sagemaker.validation import coerce, service_model, validate

SERVICE, TARGET_PREFIX = "application-autoscaling", "AnyScaleFrontendService"
_VARIANT = re.compile(r"endpoint/([^/]+)/variant/([^/]+)")
_DIMENSION = "sagemaker:variant:DesiredInstanceCount"


class Scaling:
    """The operations on targets, policies and scheduled actions."""

    def __init__(self, context: Context, hosting: Hosting) -> None:
        self._context, self._hosting = context, hosting
        self._targets = context.store.all("scalable_targets")
        self.operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "RegisterScalableTarget": self.register,
            "DeregisterScalableTarget": self.deregister,
            "DescribeScalableTargets": lambda request: {"ScalableTargets": [*map(shown, self._asked(request))]},
            "PutScalingPolicy": self.put_policy,
            "DeleteScalingPolicy": self.delete_policy,
            "DescribeScalingPolicies": lambda request: {"ScalingPolicies": self._of(request, "_policies")},
            "PutScheduledAction": self.put_action,
            "DescribeScheduledActions": lambda request: {"ScheduledActions": self._of(request, "_actions")},
        }

    async def handle(self, method: str, path: str, headers: dict[str, str], body: Any, _query: Any) -> Response:
        """MiniStack's entry for requests signed for Application Auto Scaling."""
        content = body.encode() if isinstance(body, str) else body or b""
        try:
            answer = self.call(headers.get("x-amz-target", "").rpartition(".")[2], json.loads(content or b"{}"))
            status, sent = 200, {}
        except ApiError as error:
            answer, status = {"__type": error.code, "message": error.message}, error.status
            sent = {"x-amzn-ErrorType": error.code}
        return status, {"Content-Type": "application/x-amz-json-1.1", **sent}, json.dumps(answer).encode()

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Validate and carry out one operation; raises `ApiError`."""
        function = self.operations.get(operation)
        if function is None:
            raise ApiError("UnknownOperationException", f"The local cloud's Auto Scaling has no operation {operation}.")
        validate(operation, request, SERVICE)
        return function(request)

    def is_target(self, endpoint: str) -> bool:
        """Whether any of an endpoint's variants is scaled."""
        return any(target["ResourceId"].startswith(f"endpoint/{endpoint}/") for target in self._targets.values())

    def register(self, request: dict[str, Any]) -> dict[str, Any]:
        found = _VARIANT.fullmatch(request["ResourceId"])
        if (request["ServiceNamespace"], request["ScalableDimension"]) != ("sagemaker", _DIMENSION) or not found:
            raise invalid(f"The local cloud scales variants of endpoints by {_DIMENSION}, and nothing else.")
        # Also refuses an endpoint that isn't there.
        variants = [item["VariantName"] for item in self._hosting.describe({"EndpointName": found[1]})["ProductionVariants"]]
        if found[2] not in variants:
            raise invalid(f'Could not find variant "{found[2]}" of endpoint "{found[1]}".')
        before = self._targets.get(request["ResourceId"], {})
        merged = {**before, **request}
        for bound in ("MinCapacity", "MaxCapacity"):
            if bound not in merged:
                raise invalid(f"{bound} is required when a scalable target is registered.")
        if merged["MaxCapacity"] < merged["MinCapacity"]:
            raise invalid("Maximum capacity cannot be less than minimum capacity")
        with self._context.store.change():
            self._targets[request["ResourceId"]] = {"CreationTime": now(), "_policies": {}, "_actions": {}, **merged}
        return {}

    def deregister(self, request: dict[str, Any]) -> dict[str, Any]:
        self._target(request)
        with self._context.store.change():
            del self._targets[request["ResourceId"]]
        return {}

    def put_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        target, name = self._target(request), request["PolicyName"]
        tracked = _metric(request)
        if any(_metric(other) == tracked for other in target["_policies"].values() if other["PolicyName"] != name):
            raise invalid("Only one TargetTrackingScaling policy for a given metric specification is allowed.")
        context = self._context.settings
        arn = (
            f"arn:aws:autoscaling:{context.region}:{context.account_id}:scalingPolicy:local:resource/sagemaker/"
            f"{request['ResourceId']}:policyName/{name}"
        )
        with self._context.store.change():
            target["_policies"][name] = {**request, "PolicyARN": arn, "CreationTime": now()}
        return {"PolicyARN": arn, "Alarms": []}

    def delete_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        policies = self._target(request)["_policies"]
        if request["PolicyName"] not in policies:
            raise _missing(f"No scaling policy found for {_named(request)}, policy name: {request['PolicyName']}")
        with self._context.store.change():
            del policies[request["PolicyName"]]
        return {}

    def put_action(self, request: dict[str, Any]) -> dict[str, Any]:
        actions = self._target(request)["_actions"]
        with self._context.store.change():
            actions[request["ScheduledActionName"]] = {**request, "CreationTime": now()}
        return {}

    def _target(self, request: Mapping[str, Any]) -> Record:
        target = self._targets.get(request["ResourceId"])
        if target is None:
            raise _missing(f"No scalable target registered for {_named(request)}")
        return target

    def _asked(self, request: Mapping[str, Any]) -> list[Record]:
        wanted = request.get("ResourceIds") or [request.get("ResourceId")]
        return [target for name, target in self._targets.items() if name in wanted or wanted == [None]]

    def _of(self, request: Mapping[str, Any], kind: str) -> list[Record]:
        return [item for target in self._asked(request) for item in target[kind].values()]


def _metric(policy: Mapping[str, Any]) -> object:
    return policy.get("TargetTrackingScalingPolicyConfiguration", {}).get("PredefinedMetricSpecification")


def _named(request: Mapping[str, Any]) -> str:
    return (
        f"service namespace: {request['ServiceNamespace']}, resource ID: {request['ResourceId']}, "
        f"scalable dimension: {request['ScalableDimension']}"
    )


def _missing(message: str) -> ApiError:
    return ApiError("ObjectNotFoundException", message)


# ---------------------------------------------------------------------------------------------------------------------
# CloudFormation

_Result = tuple[str, dict[str, Any]]


def install_types(scaling: Scaling) -> None:
    """Register targets and policies with MiniStack's engine."""
    from ministack.services.cloudformation import provisioners

    def call(operation: str, properties: dict[str, Any]) -> dict[str, Any]:
        shape = service_model(SERVICE).operation_model(operation).input_shape
        try:
            return scaling.call(operation, coerce(properties, shape))
        except ApiError as error:
            raise ValueError(f"{error.message} (Service: ApplicationAutoScaling, Status Code: {error.status})") from error

    def gone(operation: str, properties: dict[str, Any]) -> None:
        try:
            call(operation, properties)
        except ValueError as error:
            if "No scal" not in str(error):  # somebody took it away: that is what the stack wants, too
                raise

    def target(_logical_id: str, properties: dict[str, Any], _stack: str) -> _Result:
        call("RegisterScalableTarget", {**properties, "RoleARN": None})
        for action in properties.get("ScheduledActions", ()):
            call("PutScheduledAction", {**_of(properties), **action})
        name = "|".join(properties[key] for key in ("ResourceId", "ScalableDimension", "ServiceNamespace"))
        return name, {"Id": name}

    def policy(_logical_id: str, properties: dict[str, Any], _stack: str) -> _Result:
        arn = call("PutScalingPolicy", {**properties, **_scaled(properties)})["PolicyARN"]
        return arn, {"Arn": arn}

    def no_policy(_physical_id: str, properties: dict[str, Any]) -> None:
        gone("DeleteScalingPolicy", {**properties, **_scaled(properties)})

    made: dict[str, tuple[Callable[..., _Result], Callable[..., None]]] = {
        "ScalableTarget": (target, lambda _physical_id, properties: gone("DeregisterScalableTarget", properties)),
        "ScalingPolicy": (policy, no_policy),
    }
    for kind, (make, delete) in made.items():

        def update(
            _physical_id: str, _old: dict[str, Any], new: dict[str, Any], stack: str, make: Callable[..., _Result] = make
        ) -> _Result:
            return make("", new, stack)

        handlers = {"create": make, "update": update, "delete": delete}
        provisioners._RESOURCE_HANDLERS[f"AWS::ApplicationAutoScaling::{kind}"] = handlers


def _of(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {key: properties[key] for key in ("ResourceId", "ScalableDimension", "ServiceNamespace")}


def _scaled(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy scales: named by its target's id, or by itself."""
    if "ScalingTargetId" not in properties:
        return _of(properties)
    return dict(
        zip(("ResourceId", "ScalableDimension", "ServiceNamespace"), properties["ScalingTargetId"].split("|"), strict=True)
    )
