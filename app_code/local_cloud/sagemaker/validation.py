"""Request validation from the SDK's own model: types, required members, enumerations, patterns, lengths and ranges.

Step Functions and CloudFormation send requests that no SDK has checked before; SageMaker checks them all, and reports every
violation at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from botocore.model import Shape

from local_cloud.sagemaker.errors import ApiError, invalid

_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (int, float, str),
    "blob": (str,),
}


@functools.cache
def service_model(service: str = "sagemaker") -> Any:
    """The SDK's description of a service, by default of SageMaker's control plane."""
    import botocore.session

    return botocore.session.Session().get_service_model(service)


def validate(operation: str, request: Any, service: str = "sagemaker") -> None:
    """Raise what the service would answer when ``request`` breaks the model of ``operation``."""
    shape = service_model(service).operation_model(operation).input_shape
    if shape is None:
        return
    found = list(_violations(request, shape, ""))
    if found:
        many = "s" if len(found) > 1 else ""
        raise invalid(f"{len(found)} validation error{many} detected: {'; '.join(found)}")


def _violations(value: Any, shape: Shape, path: str) -> Iterator[str]:
    kind = shape.type_name
    if not _is_of(kind, value):
        raise ApiError("SerializationException", f"{_json_type(value)} cannot be converted to {kind} at '{path}'")
    if kind == "structure":
        yield from _structure_violations(value, shape, path)
    elif kind == "list":
        yield from _size_violations(value, len(value), shape, path, "length")
        for index, item in enumerate(value, start=1):
            yield from _violations(item, shape.member, f"{path}.{index}.member")
    elif kind == "map":
        yield from _size_violations(value, len(value), shape, path, "length")
        for key, item in value.items():
            yield from _violations(key, shape.key, f"{path}.key")
            yield from _violations(item, shape.value, f"{path}.{key}.value")
    elif kind == "string":
        yield from _string_violations(value, shape, path)
    elif kind in ("integer", "long", "float", "double"):
        yield from _size_violations(value, value, shape, path, "value")


def _is_of(kind: str, value: object) -> bool:
    wanted = _TYPES[kind]
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)


def _structure_violations(value: dict[str, Any], shape: Any, path: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"Value null at '{_member(path, name)}' failed to satisfy constraint: Member must not be null"
    for name, item in value.items():
        if name not in shape.members:
            known = ", ".join(shape.members)
            raise invalid(f"Unknown parameter '{name}' at '{path or '(top)'}': must be one of {known}")
        if item is not None:
            yield from _violations(item, shape.members[name], _member(path, name))


def _string_violations(value: str, shape: Any, path: str) -> Iterator[str]:
    yield from _size_violations(value, len(value), shape, path, "length")
    constraint = f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy"
    if shape.enum and value not in shape.enum:
        yield f"{constraint} enum value set: [{', '.join(shape.enum)}]"
    pattern = shape.metadata.get("pattern")
    compiled = _compiled(pattern) if pattern else None
    if compiled is not None and not compiled.fullmatch(value):
        yield f"{constraint} regular expression pattern: {pattern}"


def _size_violations(value: Any, size: float, shape: Shape, path: str, what: str) -> Iterator[str]:
    minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
    constraint = f"Value '{value}' at '{path}' failed to satisfy constraint: Member must have {what}"
    if minimum is not None and size < minimum:
        yield f"{constraint} greater than or equal to {minimum}"
    if maximum is not None and size > maximum:
        yield f"{constraint} less than or equal to {maximum}"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a Java pattern; None where Python has no equal (Unicode classes of tags), which lets the value pass."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        return None


def _member(path: str, name: str) -> str:
    lowered = name[:1].lower() + name[1:]
    return f"{path}.{lowered}" if path else lowered


def _json_type(value: Any) -> str:
    names = {bool: "TRUE_VALUE", str: "STRING_VALUE", dict: "START_OBJECT", list: "START_ARRAY", type(None): "NULL_VALUE"}
    return names.get(type(value), "NUMBER_VALUE")


def coerce(value: Any, shape: Shape) -> Any:
    """Turn CloudFormation's strings into the types the API takes, and drop members the API does not have."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict):
        return {name: coerce(item, shape.members[name]) for name, item in value.items() if name in shape.members}
    if kind == "map" and isinstance(value, dict):
        return {name: coerce(item, shape.value) for name, item in value.items()}
    if kind == "list" and isinstance(value, list):
        return [coerce(item, shape.member) for item in value]
    if kind == "boolean" and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind == "string" and isinstance(value, (int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        try:
            if kind in ("integer", "long"):
                return int(value)
            if kind in ("float", "double"):
                return float(value)
        except ValueError:
            return value  # validation names it
    return value
