"""Reading the fields of a request as leniently as its clients need: null is absent, ``"true"`` is true, ``"3"`` is 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import invalid
from .wire import clean, is_blank

ORDERS = ("relevance", "lost_in_the_middle")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read_query(value: Any, where: str = "query") -> str:
    """Return a query given as a string or as ``{"text": …}``; a blank one is refused."""
    if isinstance(value, dict):
        value = value.get("text")
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, str):
        raise invalid(where, f"must be a string, is {kind(value)}")
    if is_blank(value):
        raise invalid(where, "is empty")
    return clean(value)


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a flag of the body; absent is false."""
    value = body.get(name)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    flag = _FLAGS.get(str(value).strip().lower()) if isinstance(value, (str, int)) else None
    if flag is None:
        raise invalid(name, f"must be true or false, is {kind(value)}")
    return flag


def read_count(body: Mapping[str, Any], name: str) -> int | None:
    """Return a whole number above zero, or None when it is absent."""
    value = body.get(name)
    if value is None:
        return None
    count = _whole(value)
    if count is None:
        raise invalid(name, f"must be a whole number, is {kind(value)}")
    if count < 1:
        raise invalid(name, "must be at least 1")
    return count


def read_name(body: Mapping[str, Any], name: str) -> str | None:
    """Return a string of the body, or None when it is absent or empty."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"must be a string, is {kind(value)}")
    return value or None


def read_choice(body: Mapping[str, Any], name: str, choices: Sequence[str]) -> str | None:
    """Return one of the words that a field may hold, or None when it is absent or empty."""
    value = read_name(body, name)
    if value is not None and value not in choices:
        raise invalid(name, f"must be one of {', '.join(choices)}")
    return value


def read_scoring(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every dialect may ask about scoring and order, as arguments of ``RerankRequest``."""
    instruction = read_name(body, "instruction")
    return {
        "order": read_choice(body, "order", ORDERS) or "relevance",
        "max_tokens_per_doc": read_count(body, "max_tokens_per_doc"),
        "max_chunks_per_doc": read_count(body, "max_chunks_per_doc"),
        "instruction": None if instruction is None or is_blank(instruction) else clean(instruction),
    }


def kind(value: Any) -> str:
    """Return the JSON type of a value in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        digits = value.strip()
        sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
        return sign * int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    return value if isinstance(value, int) else None
