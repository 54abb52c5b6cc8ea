"""What differs between two stages' templates: resource types, permissions, and the leaves of the state machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

Templates = dict[str, dict[str, Any]]


def differences(one: Templates, other: Templates) -> set[str]:
    """Return the differences, each as a line; the stage's own name and physical ids don't count."""
    found: set[str] = set()
    for stack in sorted(one):
        found |= _types(stack, one[stack], other[stack])
        found |= _permissions(stack, one[stack], other[stack])
        found |= _machines(stack, one[stack], other[stack])
    return found


def _types(stack: str, one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    counts = [Counter(item["Type"] for item in template["Resources"].values()) for template in (one, other)]
    return {
        f"{stack}: {counts[0][kind]} and {counts[1][kind]} {kind}"
        for kind in counts[0] | counts[1]
        if counts[0][kind] != counts[1][kind]
    }


def _permissions(stack: str, one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    sides = [set(statements(template)) for template in (one, other)]
    return {f"{stack}: only one side lets {who} {actions}" for who, actions, _ in sides[0] ^ sides[1]}


def statements(template: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (who, actions, the whole statement) of every inline policy."""
    for name, item in template["Resources"].items():
        if item["Type"] != "AWS::IAM::Policy":
            continue
        for statement in item["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            actions = actions if isinstance(actions, str) else ", ".join(actions)
            yield name[:-8].removesuffix("DefaultPolicy"), actions, _plain(statement)


def machines(template: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, definition) of every state machine; what CloudFormation fills in stands as its expression."""
    for item in template["Resources"].values():
        if item["Type"] == "AWS::StepFunctions::StateMachine":
            name = item["Properties"]["StateMachineName"].rsplit("-", 1)[-1]
            yield name, json.loads(_text(item["Properties"]["DefinitionString"]))


def _machines(stack: str, one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for (name, left), (_, right) in zip(machines(one), machines(other), strict=True):
        sides = [dict(_leaves(_stageless(definition))) for definition in (left, right)]
        for path in sides[0].keys() | sides[1].keys():
            if sides[0].get(path) != sides[1].get(path):
                found.add(f"{stack}: {name}: {path}")
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}/{index}")
    else:
        yield path.removeprefix("/States/"), value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value["Fn::Join"][1]
    return "".join(part if isinstance(part, str) else json.dumps(part, sort_keys=True).replace('"', "'") for part in parts)


def _plain(value: Any) -> str:
    return json.dumps(_stageless(value), sort_keys=True)


def _stageless(value: Any) -> Any:
    text = json.dumps(value)
    for stage in ("local", "prod"):
        text = text.replace(f"ko-reranker-{stage}", "STAGE").replace(f"ko-reranker/{stage}", "STAGE")
    return json.loads(text)
