"""Permissions of synthesised templates, and templates without one of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_POLICIES = {
    "AWS::IAM::Policy": "PolicyDocument",
    "AWS::KMS::Key": "KeyPolicy",
    "AWS::S3::BucketPolicy": "PolicyDocument",
    "AWS::SNS::TopicPolicy": "PolicyDocument",
    "AWS::SQS::QueuePolicy": "PolicyDocument",
}
# Where else a role could get permissions from; the stacks use none of it, or the list would not be whole.
_ELSEWHERE = {"AWS::IAM::Role": "Policies", "AWS::IAM::ManagedPolicy": "PolicyDocument"}
_DIGEST = re.compile(r"[0-9A-F]{8}$")


class Permission(NamedTuple):
    """A permission of a template.

    Attributes:
        owner: the role's logical ID without its digest, such as ``PlanRole``; of a resource's policy its logical ID and the
            principal, ``TopicPolicy for events.amazonaws.com``; of an ``AWS::Lambda::Permission`` the function and who calls
            it, ``RerankFunction for */*/GET/health`` or ``ModelAgeFunction for Daily``.
        action: the IAM action; of a managed policy of AWS its name.
    """

    owner: str
    action: str

    def __str__(self) -> str:
        return f"{self.owner} {self.action}"


def permissions(template: dict[str, Any]) -> Iterator[Permission]:
    """Yield what the policies of a template allow."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        assert not properties.get(_ELSEWHERE.get(resource["Type"], "")), f"{name} has permissions that nobody looks at"
        for policy in properties.get("ManagedPolicyArns", ()):
            yield Permission(_without_digest(name), _text(policy).rpartition("/")[2])
        if resource["Type"] == "AWS::Lambda::Permission":
            yield Permission(_caller(properties), properties["Action"])
        for statement in _statements(resource):
            if statement["Effect"] == "Allow":
                for owner in _owners(name, statement):
                    yield from (Permission(owner, action) for action in _list(statement["Action"]))


def without(template: dict[str, Any], permission: Permission) -> dict[str, Any]:
    """Return a copy of a template that does not have a permission, wherever in the owner's policy it stands."""
    edited = copy.deepcopy(template)
    removed = 0
    for name, resource in list(edited["Resources"].items()):
        if resource["Type"] == "AWS::Lambda::Permission" and _caller(resource["Properties"]) == permission.owner:
            _remove_resource(edited, name)
            removed += 1
        statements = _statements(resource)
        for statement in list(statements):
            if statement["Effect"] != "Allow" or permission.owner not in _owners(name, statement):
                continue
            actions = _list(statement["Action"])
            if permission.action not in actions:
                continue
            removed += 1
            others = [owner for owner in _owners(name, statement) if owner != permission.owner]
            if others:  # they keep what only this one loses
                services = [owner.rpartition(" ")[2] for owner in others]
                statements.append({**statement, "Action": permission.action, "Principal": {"Service": services}})
            statement["Action"] = [action for action in actions if action != permission.action]
            if not statement["Action"]:
                statements.remove(statement)
        if resource["Type"] in _POLICIES and not statements:
            _remove_resource(edited, name)
    assert removed, f"the template has no {permission}"
    return edited


def with_other_machines(template: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a template whose state machines differ from the original's, in nothing but a tag."""
    edited = copy.deepcopy(template)
    for resource in edited["Resources"].values():
        if resource["Type"] == "AWS::StepFunctions::StateMachine":
            resource["Properties"].setdefault("Tags", []).append({"Key": "changed", "Value": "yes"})
    return edited


def _statements(resource: dict[str, Any]) -> list[dict[str, Any]]:
    document = resource.get("Properties", {}).get(_POLICIES.get(resource["Type"], ""))
    return document["Statement"] if document else []


def _owners(name: str, statement: dict[str, Any]) -> list[str]:
    name = _without_digest(name).removesuffix("DefaultPolicy")
    principal = statement.get("Principal")
    if principal is None:
        return [name]
    if not isinstance(principal, dict) or "Service" not in principal:
        return [f"{name} for the account"]
    return [f"{name} for {service}" for service in _list(principal["Service"])]


def _caller(properties: dict[str, Any]) -> str:
    """The function of an ``AWS::Lambda::Permission`` and who may call it: the part of API Gateway, or a rule."""
    function = properties["FunctionName"]["Fn::GetAtt"][0]
    source = properties["SourceArn"]
    if "Fn::GetAtt" in source:
        return f"{_without_digest(function)} for {_without_digest(source['Fn::GetAtt'][0])}"
    part = _text(source).partition(":execute-api:")[2].partition("/")[2]
    return f"{_without_digest(function)} for {part}"


def _text(value: Any) -> str:
    """A string of a template; what only CloudFormation knows is an asterisk."""
    if isinstance(value, str):
        return value
    return "".join(part if isinstance(part, str) else "*" for part in value["Fn::Join"][1])


def _remove_resource(template: dict[str, Any], name: str) -> None:
    del template["Resources"][name]
    for resource in template["Resources"].values():
        if name in _list(resource.get("DependsOn", [])):
            resource["DependsOn"] = [other for other in _list(resource["DependsOn"]) if other != name]


def _without_digest(name: str) -> str:
    return _DIGEST.sub("", name)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
