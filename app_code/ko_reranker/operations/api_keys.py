"""The API keys of a stage, kept by API Gateway and bounded by the usage plan of their tier."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its value.

    Attributes:
        name: whom it is for.
        tier: the name of its usage plan; None when it has none.
    """

    id: str
    name: str
    tier: str | None
    enabled: bool
    created: str


def create(stage: Stage, name: str, tier: str) -> str:
    """Make a key and return its value.

    Raises:
        OperationError: when the name is taken or the tier unknown.
    """
    if not _NAME.fullmatch(name):
        raise OperationError(f"{name!r} can't be a name: use letters, digits, dots, dashes and underscores, at most 64")
    gateway = stage.client("apigateway")
    plans = _plans(stage, gateway)
    if tier not in plans:
        raise OperationError(f"there is no tier {tier!r}: {', '.join(sorted(plans)) or 'the api stack is not deployed'}")
    if any(key.name == name for key in keys(stage)):
        raise OperationError(f"there is a key {name} already: choose another name, or disable that one")
    made = gateway.create_api_key(
        name=f"{stage.prefix}-{name}", enabled=True, description="Made by ko-reranker keys create", value=_new_value(tier)
    )
    gateway.create_usage_plan_key(usagePlanId=plans[tier], keyId=made["id"], keyType="API_KEY")
    value: str = made["value"]
    return value


def keys(stage: Stage) -> list[ApiKey]:
    """Return the stage's keys by name."""
    gateway = stage.client("apigateway")
    tiers = {
        key["id"]: tier
        for tier, plan in _plans(stage, gateway).items()
        for key in _pages(gateway, "get_usage_plan_keys", usagePlanId=plan)
    }
    prefix = f"{stage.prefix}-"
    found = [
        ApiKey(
            key["id"],
            key["name"].removeprefix(prefix),
            tiers.get(key["id"]),
            key["enabled"],
            f"{key['createdDate']:%Y-%m-%d}" if key.get("createdDate") else "",
        )
        for key in _pages(gateway, "get_api_keys", nameQuery=prefix, includeValues=False)
        if key["name"].startswith(prefix)
    ]
    return sorted(found, key=lambda key: key.name)


def disable(stage: Stage, name: str) -> None:
    """Switch a key off.

    Raises:
        OperationError: when there is none of that name.
    """
    found = next((key for key in keys(stage) if key.name == name), None)
    if found is None:
        raise OperationError(f"there is no key {name} on stage {stage.name}: `ko-reranker keys list` shows them")
    change = {"op": "replace", "path": "/enabled", "value": "false"}
    stage.client("apigateway").update_api_key(apiKey=found.id, patchOperations=[change])


def _new_value(tier: str) -> str:
    # The beginning tells our keys from those of other services that clients send beside them, and the authorizer reads the tier
    # out of what follows (`lambda/authorizer`), so that no request waits for anybody to look it up.
    return f"kor_{tier}_{secrets.token_urlsafe(30)}"


def _plans(stage: Stage, gateway: Any) -> dict[str, str]:
    prefix = f"{stage.prefix}-"
    plans = _pages(gateway, "get_usage_plans")
    return {plan["name"].removeprefix(prefix): plan["id"] for plan in plans if plan["name"].startswith(prefix)}


def _pages(gateway: Any, operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    for page in gateway.get_paginator(operation).paginate(**arguments):
        yield from page.get("items", ())
