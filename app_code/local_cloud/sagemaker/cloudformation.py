"""SageMaker's resource types for MiniStack's CloudFormation engine.

Models and endpoint configurations can't be changed on AWS: any change but one of tags replaces them, under a new generated
name. A changed ``EndpointConfigName`` updates the endpoint in place and is complete when the new fleet serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from local_cloud.sagemaker.api import SageMaker
from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.validation import coerce, service_model

_LONGEST_NAME = 63
Result = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class _Type:
    """How one resource type maps to the API.

    Attributes:
        kind: the type's last word.
        arn: member of the create call's answer that becomes the physical id.
        in_place: properties whose change needs no replacement.
    """

    kind: str
    arn: str
    in_place: tuple[str, ...]

    @property
    def cloudformation(self) -> str:
        return f"AWS::SageMaker::{self.kind}"

    @property
    def name(self) -> str:
        return f"{self.kind}Name"

    @property
    def properties(self) -> list[str]:
        return list(service_model().operation_model(f"Create{self.kind}").input_shape.members)


_ENDPOINT_IN_PLACE = (
    *("EndpointConfigName", "DeploymentConfig", "RetainAllVariantProperties", "RetainDeploymentConfig"),
    *("ExcludeRetainedVariantProperties", "Tags"),
)
TYPES = (
    _Type("Model", "ModelArn", ("Tags",)),
    _Type("EndpointConfig", "EndpointConfigArn", ("Tags",)),
    _Type("Endpoint", "EndpointArn", _ENDPOINT_IN_PLACE),
    _Type("ModelPackageGroup", "ModelPackageGroupArn", ("ModelPackageGroupPolicy", "Tags")),
)


def install(sagemaker: SageMaker) -> None:
    """Register the types with MiniStack's engine."""
    from ministack.services.cloudformation import provisioners, stacks

    for kind in TYPES:
        handlers = _Handlers(sagemaker, kind)
        provisioners._RESOURCE_HANDLERS[kind.cloudformation] = {
            "create": handlers.create,
            "update": handlers.update,
            "delete": handlers.delete,
        }
        provisioners._REPLACING_PROPERTIES[kind.cloudformation] = tuple(
            name for name in kind.properties if name not in kind.in_place
        )
        # A resource with a name of the user's own can't be replaced: the new one needs the name the old one still has.
        provisioners._CUSTOM_NAME_REPLACEMENT[kind.cloudformation] = {"name": kind.name}

    on_worker = stacks._runs_on_worker_thread

    def runs_on_worker_thread(resource_type: str) -> bool:
        # They wait for processes and ask S3, which the event loop itself serves.
        return resource_type.startswith("AWS::SageMaker::") or on_worker(resource_type)

    stacks._runs_on_worker_thread = runs_on_worker_thread


class _Handlers:
    """Create, update and delete of one type."""

    def __init__(self, sagemaker: SageMaker, kind: _Type) -> None:
        self._sagemaker = sagemaker
        self._kind = kind

    def create(self, logical_id: str, properties: dict[str, Any], stack: str) -> Result:
        from ministack.services.cloudformation import provisioners

        kind = self._kind
        name = properties.get(kind.name) or provisioners._physical_name(stack, logical_id, max_len=_LONGEST_NAME)
        answer = self._call(f"Create{kind.kind}", {**properties, kind.name: name})
        if kind.kind == "Endpoint":
            self._settled(name, "Failed")
        return self._result(answer[kind.arn], name)

    def update(self, physical_id: str, old: dict[str, Any], new: dict[str, Any], _stack: str) -> Result:
        kind, name = self._kind, physical_id.rsplit("/", 1)[-1]
        if kind.kind == "Endpoint":
            request = {n: new[n] for n in _ENDPOINT_IN_PLACE if n in new and n != "Tags"}
            live = self._sagemaker.hosting.wait(name)["EndpointConfigName"]
            if live != new["EndpointConfigName"]:
                self._call("UpdateEndpoint", {**request, "EndpointName": name})
                self._settled(name, "FailureReason")
        if old.get("Tags") != new.get("Tags"):
            self._retag(physical_id, old.get("Tags") or [], new.get("Tags") or [])
        return self._result(physical_id, name)

    def delete(self, physical_id: str, _properties: dict[str, Any]) -> None:
        kind, name = self._kind, physical_id.rsplit("/", 1)[-1]
        try:
            if kind.kind == "Endpoint":
                self._sagemaker.hosting.wait(name)
            self._call(f"Delete{kind.kind}", {kind.name: name})
        except (ApiError, ValueError) as error:
            if "Could not find" in str(error) or "does not exist" in str(error):
                return  # somebody deleted it by hand: that is what the stack wants, too
            raise
        if kind.kind == "Endpoint":
            self._sagemaker.hosting.wait_deleted(name)

    def _settled(self, name: str, trouble: str) -> None:
        """Wait for the endpoint; raise when it has failed or went back to its old configuration."""
        endpoint = self._sagemaker.hosting.wait(name)
        reason = endpoint.get("FailureReason")
        if reason or (trouble == "Failed" and endpoint["EndpointStatus"] == "Failed"):
            raise ValueError(f'Resource handler returned message: "{reason or "the endpoint failed"}" (NotStabilized)')

    def _retag(self, arn: str, old: list[dict[str, str]], new: list[dict[str, str]]) -> None:
        gone = sorted({tag["Key"] for tag in old} - {tag["Key"] for tag in new})
        if gone:
            self._call("DeleteTags", {"ResourceArn": arn, "TagKeys": gone})
        if new:
            self._call("AddTags", {"ResourceArn": arn, "Tags": new})

    def _result(self, arn: str, name: str) -> Result:
        kind = self._kind
        attributes: dict[str, Any] = {kind.name: name, kind.arn: arn, "Id": arn}
        if kind.kind == "ModelPackageGroup":
            attributes |= {"ModelPackageGroupStatus": "Completed"}
        return arn, attributes

    def _call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        shape = service_model().operation_model(operation).input_shape
        try:
            return self._sagemaker.call(operation, coerce(request, shape))
        except ApiError as error:
            raise ValueError(f"{error.message} (Service: SageMaker, Status Code: {error.status}) ({error.code})") from error
