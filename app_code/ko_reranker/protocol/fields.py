"""Reading the fields of a request as leniently as its clients need: null is absent, ``"true"`` is true, ``"3"`` is 3."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import invalid
from .wire import clean, is_blank

ORDERS = ("relevance", "lost_in_the_middle")
# What a flag may be; 1 and 0 are in it as well, equal to true and false.
FLAGS: dict[str | float, bool] = {
    True: True,
    False: False,
    **dict.fromkeys(("true", "True", "TRUE", "1"), True),
    **dict.fromkeys(("false", "False", "FALSE", "0"), False),
}
# A count that a client wrote as a string.
COUNT = "^0*[1-9][0-9]{0,17}$"
_COUNT = re.compile(COUNT[1:-1])
_ZERO = re.compile("0+")
# More than that of anything is as good as no limit, and fits what any machine counts in.
_MOST = 2**31 - 1


def read_query(value: Any, where: str = "query") -> str:
    """Return a query given as a string, as ``{"text": …}`` or as ``{"content": […]}``; a blank one is refused."""
    if isinstance(value, dict):
        content = unwrap_content(value)
        value = value.get("text") if content is value else read_content(content, f"{where}.content")
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, str):
        raise invalid(where, f"must be a string, is {kind(value)}")
    if is_blank(value):
        raise invalid(where, "is empty")
    return clean(value)


def read_queries(value: Any, documents: int, where: str) -> tuple[str, ...]:
    """Return one query for all documents, or one for each: a query, or a list of one or as many as there are documents."""
    if (content := unwrap_content(value)) is not value:
        value, where = content, f"{where}.content"
    if not isinstance(value, list):
        return (read_query(value, where),)
    if len(value) not in {1, documents}:
        raise invalid(where, f"must be one query, or {documents}: one for each document; are {len(value)}")
    return tuple(read_query(query, f"{where}[{index}]") for index, query in enumerate(value))


def read_flag(body: Mapping[str, Any], name: str) -> bool:
    """Return a flag of the body; absent is false."""
    value = body.get(name)
    if value is None:
        return False
    flag = FLAGS.get(value) if isinstance(value, (str, int, float)) else None
    if flag is None:
        raise invalid(name, f"must be true or false, is {kind(value)}")
    return flag


def read_raw_scores(body: Mapping[str, Any]) -> bool:
    """Return whether raw scores are wanted: ``raw_scores``, or vLLM's ``use_activation`` (once ``activation``) switched off."""
    switched_off = [body.get(name) is not None and not read_flag(body, name) for name in ("use_activation", "activation")]
    return read_flag(body, "raw_scores") or any(switched_off)


def read_top_n(body: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """Return how many results are wanted, None for all, and warnings.

    ``top_n: 0`` is all to vLLM, whose bytes are Cohere's, and nonsense to Cohere: all, with a warning.
    """
    if _whole(body.get("top_n")) == 0:
        return None, ("top_n is 0: all documents are returned, as without it",)
    return read_count(body, "top_n"), ()


def unwrap_content(value: Any) -> Any:
    """Return the list in ``{"content": [...]}``, vLLM's way to write several texts; any other value as it is."""
    content = value.get("content") if isinstance(value, dict) and value.get("text") is None else None
    return content if isinstance(content, list) else value


def read_content(content: Sequence[Any], where: str) -> str:
    """Return the texts of a list of content parts, a line each; each is a string or ``{"text": …}``."""
    parts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise invalid(f"{where}[{index}]", "has no text, and only text can be ranked")
        parts.append(text)
    return "\n".join(parts)


def read_count(body: Mapping[str, Any], name: str) -> int | None:
    """Return a whole number above zero, or None when it is absent."""
    value = body.get(name)
    if value is None:
        return None
    count = _whole(value)
    if count is None:
        raise invalid(name, f"must be a whole number of at least 1, is {kind(value)}")
    if count < 1:
        raise invalid(name, "must be at least 1")
    return min(count, _MOST)


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


def read_object(body: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """Return an object of the body; absent is empty."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(where, f"must be an object, is {kind(value)}")
    return value or {}


def read_scoring(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every dialect may ask about scoring and order, as arguments of ``RerankRequest``."""
    instruction = read_name(body, "instruction") or read_name(body, "instruct")
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
        return int(value) if _COUNT.fullmatch(value) else 0 if _ZERO.fullmatch(value) else None
    return value if isinstance(value, int) else None
