"""``{"text_1", "text_2"}``: vLLM's score routes, one score a pair, in the order of the pairs.

Newer clients name the two sides ``queries`` and ``documents`` or ``items``, or ``data_1`` and ``data_2``. One text on the first
side is paired with each of the second; lists of the same length are paired item by item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..fields import read_name, read_queries, read_raw_scores, read_scoring
from ..ranking import scores
from ..schemas import ASKED, INDEX, MODEL, NUMBER, RAW_SCORES, SCORING, TOLD, USAGE, Schema, absent, array, obj, paired
from .dialect import Dialect, Example

NAME = "score"

_SIDES = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items"))


def matches(body: Mapping[str, Any]) -> bool:
    return "text_1" in body or "data_1" in body or ("queries" in body and ("documents" in body or "items" in body))


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    # `queries` has two names for its other side, so that only here both must be there to tell.
    one, other = next(sides for sides in _SIDES if sides[0] in body and (sides[0] != "queries" or sides[1] in body))
    documents = read_documents(body.get(other), other)
    return RerankRequest(
        dialect=NAME,
        queries=read_queries(body[one], len(documents), one),
        documents=documents,
        raw_scores=read_raw_scores(body),
        model=read_name(body, "model"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "object": "list",
        "created": result.created,
        "model": request.model or result.model,
        "data": [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores(request, result))],
        "usage": result.usage,
    }


def schemas(max_documents: int) -> dict[str, Schema]:
    rest = {**RAW_SCORES, **MODEL, **SCORING}
    queries = {**rest, **absent("text_1", "data_1")}
    forms = [
        *paired("text_1", "text_2", rest),
        *paired("data_1", "data_2", {**rest, **absent("text_1")}),
        *paired("queries", "documents", queries),
        *paired("queries", "items", {**queries, **absent("documents")}),
    ]
    return {"Score": {"title": "vLLM's score: one text with each of the other side, or item by item", "anyOf": forms}}


def answers() -> list[Schema]:
    scored = obj(["index", "object", "score"], {"index": INDEX, "object": {"const": "score"}, "score": NUMBER})
    return [obj(["object", "model", "data", "usage"], {"data": array(scored), "usage": USAGE}, title="vLLM's score")]


DIALECT = Dialect(
    name=NAME,
    tells=("text_1", "data_1"),
    matches=matches,
    lists=("text_1", "text_2", "data_1", "data_2", "queries", "documents", "items"),
    parse=parse,
    render=render,
    clients="vLLM's score API",
    fields="`queries`, and `documents` or `items`; `text_1`, `text_2`; `data_1`, `data_2`",
    answered="`data`, in the order of the documents",
    examples=(Example("score", "vLLM's score", {"text_1": ASKED, "text_2": TOLD}),),
    schemas=schemas,
    answers=answers,
)
