"""Documents come as strings, as ``{"text": …}``, as ``{"content": …}`` or as any object: here each becomes a text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .canonical import Document
from .errors import invalid
from .fields import kind
from .wire import clean

# An object is echoed as it is, so it must be writable: Python's own writer gives up at some depth.
MAX_DEPTH = 32

# The names of the fields to score, and the place of each.
RankFields = Mapping[str, int]
NO_FIELDS: RankFields = {}


def read_documents(value: Any, where: str = "documents", rank_fields: RankFields = NO_FIELDS) -> tuple[Document, ...]:
    """Return the documents of a request: one string, or a list of at least one document.

    Args:
        value: the field's JSON value.
        where: the field's name, for error messages.
        rank_fields: of objects that have them, only these fields are scored, in this order.
    """
    if isinstance(value, str):
        value = [value]
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, list):
        raise invalid(where, f"must be a list, is {kind(value)}")
    if not value:
        raise invalid(where, "is empty, there is nothing to rank")
    return tuple(read_document(item, f"{where}[{index}]", rank_fields) for index, item in enumerate(value))


def read_rank_fields(value: Any) -> RankFields:
    """Return the names of the fields to score with their places; none when absent."""
    if value is None:
        return NO_FIELDS
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid("rank_fields", f"must be a list of strings, is {kind(value)}")
    return {name: place for place, name in reversed(list(enumerate(names)))}


def echo(document: Document) -> dict[str, Any]:
    """Return the caller's own fields with the text that was scored as ``text``, unless they hold a text."""
    if isinstance(document.source, str):
        return {"text": document.source}
    text = document.source.get("text")
    return {**document.source, "text": text if isinstance(text, str) else document.text}


def echo_text(document: Document) -> str:
    """Return the document as one string."""
    return echo(document)["text"]


def read_document(item: Any, where: str, rank_fields: RankFields = NO_FIELDS) -> Document:
    """Return one document: a string, or an object of any form."""
    if isinstance(item, str):
        return Document(clean(item), item)
    if isinstance(item, dict):
        return Document(clean(_object_text(item, where, rank_fields)), item)
    raise invalid(where, f"must be a string or an object, is {kind(item)}")


def _object_text(item: Mapping[str, Any], where: str, rank_fields: RankFields) -> str:
    # An object is echoed as it is, so even the fields that are not scored must be writable.
    _check_depth(item, where)
    text, content = item.get("text"), item.get("content")
    if not isinstance(text, str) and isinstance(content, list):
        content = _content_text(content, f"{where}.content")
    # Over the item's own names: there may be far more of the others.
    picked = sorted((name for name in item if name in rank_fields), key=rank_fields.__getitem__)
    if picked:
        return "\n".join(as_lines({name: item[name] for name in picked}, ""))
    for whole in (text, content):
        if isinstance(whole, str):
            return whole
    return "\n".join(as_lines(item, ""))


def _content_text(content: list[Any], where: str) -> str:
    parts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise invalid(f"{where}[{index}]", "has no text, and only text can be ranked")
        parts.append(text)
    return "\n".join(parts)


def as_lines(fields: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield ``key: value`` lines: nothing quoted, nothing escaped, so that Korean stays as the model knows it."""
    for key, value in fields.items():
        if value is None:
            continue
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from as_lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            yield f"{indent}{key}:"
            for item in value:
                yield from as_lines(item if isinstance(item, dict) else {"-": item}, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{key}: {', '.join(_scalar(item) for item in value if item is not None)}"
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_depth(item: Any, where: str) -> None:
    level = [item]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise invalid(where, f"is nested deeper than {MAX_DEPTH} levels")


def _children(node: Any) -> list[Any]:
    values = node.values() if isinstance(node, dict) else node
    return [value for value in values if isinstance(value, (dict, list))]
