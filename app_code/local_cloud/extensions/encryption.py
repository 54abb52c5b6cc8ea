"""The KMS keys of tables and topics, which MiniStack 1.5.33's CloudFormation drops.

Through its own APIs MiniStack stores them. A table or a topic of a template was without its key, so that no role needed any
permission on it.
"""

from __future__ import annotations

from typing import Any

from ministack.services import dynamodb, sns
from ministack.services.cloudformation import provisioners

from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS"),)

_TOPIC_KEY = "KmsMasterKeyId"


def _encrypt_table(name: str, props: dict[str, Any]) -> None:
    dynamodb._tables[name]["SSEDescription"] = dynamodb._sse_description_from_spec(_specification(props))


def _specification(props: dict[str, Any]) -> dict[str, Any] | None:
    """SSESpecification as the API has it: CloudFormation says SSEEnabled where the API says Enabled."""
    spec = props.get("SSESpecification")
    # CloudFormation may hand over a boolean as text.
    return {**spec, "Enabled": str(spec.get("SSEEnabled", "")).lower() == "true"} if spec else None


def _encrypt_topic(arn: str, props: dict[str, Any]) -> None:
    attributes = sns._topics[arn]["attributes"]
    if props.get(_TOPIC_KEY):
        attributes[_TOPIC_KEY] = props[_TOPIC_KEY]
    else:
        attributes.pop(_TOPIC_KEY, None)


def _extended(handlers: dict[str, Any], encrypt: Any) -> dict[str, Any]:
    create_original, update_original = handlers["create"], handlers["update"]

    def create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        physical_id, attributes = create_original(logical_id, props, stack)
        encrypt(physical_id, props)
        return physical_id, attributes

    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str, *args: Any, **kwargs: Any
    ) -> Any:
        result = update_original(physical_id, old_props, new_props, stack, *args, **kwargs)
        encrypt(result[0], new_props)
        return result

    return {**handlers, "create": create, "update": update}


def _extend_handlers(handlers: dict[str, Any]) -> dict[str, Any]:
    for kind, encrypt in (("AWS::DynamoDB::Table", _encrypt_table), ("AWS::SNS::Topic", _encrypt_topic)):
        handlers[kind] = _extended(handlers[kind], encrypt)
    return handlers


def install(patch: Patcher) -> None:
    """Keep the keys of tables and topics."""
    patch.replace(provisioners, "_RESOURCE_HANDLERS", _extend_handlers)
