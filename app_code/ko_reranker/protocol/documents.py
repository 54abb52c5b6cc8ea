"""Documents come as strings, as ``{"text": …}``, as ``{"content": …}`` or as any object: here each becomes a text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .canonical import Document
from .errors import invalid
from .fields import kind, read_content, unwrap_content
from .wire import clean

# An object is echoed as it is, so it must be writable: Python's own writer gives up at some depth.
MAX_DEPTH = 32

# The text that is made of objects is at most this many times as long as the objects were, all of a request together, and a
# little more. Indentation is what it grows by: a list without anything in it, thirty levels down, is sixty spaces.
MAX_GROWTH, _FREE_CHARACTERS = 4, 64_000

# The names of the fields to score, and the place of each.
RankFields = Mapping[str, int]
NO_FIELDS: RankFields = {}


def read_documents(value: Any, where: str = "documents", rank_fields: RankFields = NO_FIELDS) -> tuple[Document, ...]:
    """Return the documents of a request: one string, a list of at least one document, or ``{"content": [...]}`` of one.

    Args:
        value: the field's JSON value.
        where: the field's name, for error messages.
        rank_fields: of objects that have them, only these fields are scored, in this order.
    """
    if isinstance(value, str):
        value = [value]
    if (content := unwrap_content(value)) is not value:
        value, where = content, f"{where}.content"
        # Each part is a document here, and an image among them would be read as an object of fields.
        read_content(value, where)
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, list):
        raise invalid(where, f"must be a list, is {kind(value)}")
    if not value:
        raise invalid(where, "is empty, there is nothing to rank")
    rendering = Rendering()
    return tuple(read_document(item, f"{where}[{index}]", rank_fields, rendering) for index, item in enumerate(value))


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
    text: str = echo(document)["text"]
    return text


class Rendering:
    """Makes texts of the objects of a request, in bounds: a small request can't become a large one by its indentation."""

    def __init__(self) -> None:
        self._read = self._written = 0

    def text(self, fields: Mapping[str, Any], where: str) -> str:
        """Return an object's text.

        Raises:
            ProtocolError: 422, once all texts together are too long for what they were made of.
        """
        lines = []
        for line, size in _lines(fields, ""):
            self._read += size
            self._written += len(line) + 1
            if self._written > MAX_GROWTH * self._read + _FREE_CHARACTERS:
                reason = f"becomes more than {MAX_GROWTH} times as long when it is written as lines"
                raise invalid(where, f"{reason}: nest less deeply, name fields in rank_fields, or send a text")
            lines.append(line)
        return "\n".join(lines)


def read_document(item: Any, where: str, rank_fields: RankFields = NO_FIELDS, rendering: Rendering | None = None) -> Document:
    """Return one document: a string, or an object of any form.

    Args:
        item: its JSON value.
        where: its place in the request, for error messages.
        rank_fields: of an object that has them, only these fields are scored, in this order.
        rendering: of the request, which all of its documents share; None for a document of its own.
    """
    if isinstance(item, str):
        return Document(clean(item), item)
    if isinstance(item, dict):
        return Document(clean(_object_text(item, where, rank_fields, rendering or Rendering())), item)
    raise invalid(where, f"must be a string or an object, is {kind(item)}")


def _object_text(item: Mapping[str, Any], where: str, rank_fields: RankFields, rendering: Rendering) -> str:
    # An object is echoed as it is, so even the fields that are not scored must be writable.
    _check_depth(item, where)
    text, content = item.get("text"), item.get("content")
    if not isinstance(text, str) and isinstance(content, list):
        content = read_content(content, f"{where}.content")
    # Over the item's own names: there may be far more of the others.
    picked = sorted((name for name in item if name in rank_fields), key=rank_fields.__getitem__)
    if picked:
        return rendering.text({name: item[name] for name in picked}, where)
    for whole in (text, content):
        if isinstance(whole, str):
            return whole
    return rendering.text(item, where)


def as_lines(fields: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield ``key: value`` lines: nothing quoted, nothing escaped, so that Korean stays as the model knows it."""
    return (line for line, _ in _lines(fields, indent))


def _lines(fields: Mapping[str, Any], indent: str) -> Iterator[tuple[str, int]]:
    """Yield each line with the fewest characters of JSON that it may have been."""
    for key, value in fields.items():
        if value is None:
            continue
        if isinstance(value, dict):
            yield f"{indent}{key}:", len(str(key)) + 5
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            yield f"{indent}{key}:", len(str(key)) + 5
            for item in value:
                yield from _lines(item if isinstance(item, dict) else {"-": item}, indent + "  ")
        elif isinstance(value, list):
            scalars = [_scalar(item) for item in value if item is not None]
            size = sum(size for _, size in scalars) + 5 * (len(value) - len(scalars))
            yield f"{indent}{key}: {', '.join(text for text, _ in scalars)}", len(str(key)) + 2 + size
        else:
            text, size = _scalar(value)
            yield f"{indent}{key}: {text}", len(str(key)) + 2 + size


def _scalar(value: Any) -> tuple[str, int]:
    """Return a scalar's text, and the fewest characters of JSON that it may have been, a comma included."""
    if isinstance(value, str):
        return value, len(value) + 3
    text = json.dumps(value)
    # 1e15 becomes 1000000000000000.0: of a float it can't be told what it was.
    return text, 4 if isinstance(value, float) else len(text) + 1


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
