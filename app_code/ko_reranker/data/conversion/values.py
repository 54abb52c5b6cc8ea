"""What stands in a column: passages in all the shapes they come in, labels, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ko_reranker.data.conversion.columns import role_of
from ko_reranker.data.tables import passage_text
from ko_reranker.text import identity

_WORDS = {
    **dict.fromkeys(["true", "yes", "y", "o", "예", "네", "참", "정답", "positive", "relevant"], 1.0),
    **dict.fromkeys(["false", "no", "n", "x", "아니오", "아니요", "거짓", "오답", "negative", "irrelevant"], 0.0),
}


class RowError(ValueError):
    """A row that gives no record; the message is the same for all rows of its kind, `detail` is this one's."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a row.

    Attributes:
        text: may be blank.
        score: a teacher's, or None.
        label: as it stands there, or None.
    """

    text: str
    score: float | None = None
    label: Any = None


def passages_of(value: Any, column: str) -> list[Passage]:
    """Return the passages that a value holds: a text, an object with a text (and a title), or a list of either.

    In a table a list is a JSON array; columns of lists (``{"text": […], "is_selected": […]}``) are taken apart.

    Raises:
        RowError: for anything else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [passage for item in _listed(value, column) for passage in _one(item, column)]
    if isinstance(value, list):
        return [passage for item in value for passage in _one(item, column)]
    return list(_one(value, column))


def _one(value: Any, column: str) -> Iterator[Passage]:
    if value is None:
        yield Passage("")
    elif isinstance(value, str):
        yield Passage(value)
    elif isinstance(value, dict):
        lists = {key: items for key, items in value.items() if isinstance(items, list)}
        if lists:
            if len({len(items) for items in lists.values()}) > 1:
                raise RowError(f"the lists in {column} differ in length")
            for items in zip(*lists.values(), strict=True):
                yield from _one(dict(zip(lists, items, strict=True)), column)
        else:
            yield _object(value, column)
    else:
        raise RowError(f"{column} is no text", f": {str(value)[:40]}")


def _object(value: dict[str, Any], column: str) -> Passage:
    roles: dict[str, Any] = {}
    for key, item in value.items():
        roles.setdefault(role_of(key) or str(key).lower(), item)
    text = roles.get("document")
    if not isinstance(text, str) and not isinstance(roles.get("title"), str):
        raise RowError(f"an object in {column} has no text", f": its keys are {', '.join(map(str, value))}"[:200])
    whole = passage_text({"title": roles.get("title"), "text": text})
    return Passage(whole, number_of(roles.get("score")), roles.get("label"))


def _listed(text: str, column: str) -> list[Any]:
    """Return the items of a JSON array in a table's cell; any other text is one item."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return [text]
    try:
        items = json.loads(inner)
    except (ValueError, RecursionError):
        if inner[1:2] in {"'", '"'}:
            raise RowError(
                f"{column} is a list as Python prints it, which can't be read for certain", ": save as JSON Lines or Parquet"
            ) from None
        return [text]
    return items if isinstance(items, list) and all(isinstance(item, (str, dict)) for item in items) and items else [text]


def label_of(value: Any) -> float | None:
    """Return a label as a number, None where it is none; words such as ``true``, ``no``, ``정답`` are 1 and 0."""
    if isinstance(value, str) and (word := identity(value)) in _WORDS:
        return _WORDS[word]
    return number_of(value)


def number_of(value: Any) -> float | None:
    """Return a finite number, also from its text; None where there is none."""
    if value is None or isinstance(value, (list, dict)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def numbers_of(value: Any) -> list[float | None] | None:
    """Return the numbers of a list, of a JSON array in a table's cell, or of one number; None where nothing stands."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if value is None or value == "":
        return None
    return [number_of(item) for item in value] if isinstance(value, list) else [number_of(value)]


def carried(value: Any) -> Any:
    """Return a value of a further column as JSON can hold it; None for what is missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): carried(item) for key, item in value.items()}
    if isinstance(value, list):
        return [carried(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
