"""CloudFormation resource types that MiniStack 1.5.33 refuses, recorded: they deploy, keep their properties, do nothing.

An emulator can show neither widgets nor budgets of an account; with these records the
production templates deploy unchanged. Alarms over metric math are recorded in the same way: MiniStack evaluates alarms
over one metric only and refuses the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services.cloudformation import provisioners

from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS"),)

Identity = Callable[[str, dict[str, Any], str], tuple[str, dict[str, Any]]]


def _alarm(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    name = props.get("AlarmName") or f"{stack}-{logical_id}-{new_uuid()[:12]}"
    return name, {"Arn": f"arn:aws:cloudwatch:{get_region()}:{get_account_id()}:alarm:{name}"}


def _named(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    name = f"{stack}-{logical_id}-{new_uuid()[:12]}"
    return name, {"Id": name, "Arn": name}


def _query_definition(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    identifier = new_uuid()
    return identifier, {"QueryDefinitionId": identifier}


RECORDED: dict[str, Identity] = {
    "AWS::Budgets::Budget": _named,
    "AWS::CloudWatch::AnomalyDetector": _named,
    "AWS::CloudWatch::CompositeAlarm": _alarm,
    "AWS::Logs::QueryDefinition": _query_definition,
    "AWS::WAFv2::LoggingConfiguration": _named,
    "AWS::WAFv2::WebACLAssociation": _named,
    "AWS::XRay::Group": _named,
}


def _handlers(identity: Identity) -> dict[str, Any]:
    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str, logical_id: str = ""
    ) -> tuple[str, dict[str, Any]]:
        _, attributes = identity(logical_id or physical_id, new_props, stack)
        return physical_id, {name: physical_id if name == "Id" else value for name, value in attributes.items()}

    return {"create": identity, "update": update, "update_with_logical_id": True, "delete": lambda *_: None}


def _alarm_handlers(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Alarms over one metric as MiniStack has them; the ones over metric math recorded."""
    recorded = _handlers(_alarm)

    def create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        return (recorded if props.get("Metrics") else evaluated)["create"](logical_id, props, stack)

    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str, logical_id: str | None = None
    ) -> tuple[str, dict[str, Any]]:
        if old_props.get("Metrics") and new_props.get("Metrics"):
            return recorded["update"](physical_id, old_props, new_props, stack)
        if old_props.get("Metrics") or new_props.get("Metrics"):
            return create(logical_id or physical_id, new_props, stack)
        extra = {"logical_id": logical_id} if evaluated.get("update_with_logical_id") else {}
        return evaluated["update"](physical_id, old_props, new_props, stack, **extra)

    def delete(physical_id: str, props: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if not props.get("Metrics"):
            evaluated["delete"](physical_id, props, *args, **kwargs)

    return {**evaluated, "create": create, "update": update, "update_with_logical_id": True, "delete": delete}


def install(patch: Patcher) -> None:
    """Add the recorded types to MiniStack's CloudFormation."""

    def extend(handlers: dict[str, Any]) -> dict[str, Any]:
        for kind, identity in RECORDED.items():
            handlers.setdefault(kind, _handlers(identity))
        handlers["AWS::CloudWatch::Alarm"] = _alarm_handlers(handlers["AWS::CloudWatch::Alarm"])
        return handlers

    patch.replace(provisioners, "_RESOURCE_HANDLERS", extend)
