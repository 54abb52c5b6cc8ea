"""What an upgrade from one template to another would do to what holds data, told without an account.

Which properties replace a resource when they change is in the resource providers' schemas, which cfn-lint brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

REGION = "ap-northeast-2"
# Whatever of these is replaced or goes takes data, history, or an address that people use along.
HOLD = (
    "AWS::ApiGateway::ApiKey",
    "AWS::ApiGateway::RestApi",
    "AWS::CloudFront::Distribution",
    "AWS::DynamoDB::Table",
    "AWS::ECR::Repository",
    "AWS::KMS::Key",
    "AWS::S3::Bucket",
    "AWS::SageMaker::ModelPackageGroup",
    "AWS::SNS::Topic",
    "AWS::StepFunctions::StateMachine",
)
_KEPT = ("Retain", "RetainExceptOnCreate", "Snapshot")


def losses(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield what a stack loses by an update: resources that go, are replaced, or are no longer kept.

    Args:
        before: the template that is deployed.
        after: the one that it is updated to.
    """
    for name, old in before["Resources"].items():
        if old["Type"] not in HOLD:
            continue
        new = after["Resources"].get(name)
        if new is None:
            yield f"{name} ({old['Type']}) goes"
            continue
        if new["Type"] != old["Type"]:
            yield f"{name} becomes a {new['Type']}, which CloudFormation refuses"
            continue
        for place in replacing(old["Type"]):
            sides = [_at(item.get("Properties", {}), place) for item in (old, new)]
            if sides[0] != sides[1]:
                yield f"{name} is replaced: {'.'.join(place)} was {sides[0]!r} and is {sides[1]!r}"
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if old.get(policy) in _KEPT and new.get(policy) not in _KEPT:
                yield f"{name} was kept and would be deleted: {policy}"


def replacing(kind: str) -> list[tuple[str, ...]]:
    """The properties of a resource type that replace the resource when they change, always or sometimes."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
    found = [*(schema.get("createOnlyProperties") or ()), *(schema.get("conditionalCreateOnlyProperties") or ())]
    return [tuple(pointer.removeprefix("/properties/").split("/")) for pointer in found]


def _at(value: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value
