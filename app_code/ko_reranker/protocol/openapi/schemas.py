"""Words that the schemas of requests and answers are written with."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(required: list[str], properties: dict[str, Schema], **more: Any) -> Schema:
    """Return the schema of an object; other properties than these are left open."""
    return {"type": "object", "required": required, "properties": properties, **more}


def array(items: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}
