"""``{"text_1", "text_2"}``: vLLM's score routes, one score a pair, in the order of the pairs.

Newer clients name the two sides ``queries`` and ``documents``, or ``data_1`` and ``data_2``. One text on the first side is
paired with each of the second; lists of the same length are paired item by item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..errors import invalid
from ..fields import read_flag, read_name, read_query, read_scoring
from ..ranking import scores

NAME = "score"
LISTS = ("text_1", "text_2", "data_1", "data_2", "queries", "documents")

_SIDES = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"))


def matches(body: Mapping[str, Any]) -> bool:
    return "text_1" in body or "data_1" in body or ("queries" in body and "documents" in body)


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    one, other = next(sides for sides in _SIDES if sides[0] in body)
    documents = read_documents(body.get(other), other)
    return RerankRequest(
        dialect=NAME,
        queries=_queries(body[one], one, len(documents)),
        documents=documents,
        raw_scores=read_flag(body, "raw_scores"),
        model=read_name(body, "model"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    tokens = sum(result.tokens)
    return {
        "id": result.id,
        "object": "list",
        "created": result.created,
        "model": request.model or result.model,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores(request, result))],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


def _queries(value: Any, where: str, documents: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (read_query(value, where),)
    if len(value) not in {1, documents}:
        raise invalid(where, f"must be one text, or {documents}: one for each of the other side; are {len(value)}")
    return tuple(read_query(query, f"{where}[{index}]") for index, query in enumerate(value))
