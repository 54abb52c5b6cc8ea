"""``{"ask", "among"}``: a dialect that no client speaks, answered with indexes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..fields import read_query, read_scoring
from ..ranking import ranked
from ..schemas import ASKED, INDEX, SCORING, TOLD, Schema, array, obj, ref
from .dialect import Dialect, Example

NAME = "asking"


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("ask"), "ask"),),
        documents=read_documents(body["among"], "among"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {"best_first": list(ranked(request, result))}


def schemas(max_documents: int) -> dict[str, Schema]:
    return {"Asking": obj(["ask", "among"], {"ask": ref("Query"), "among": ref("Documents"), **SCORING}, title="Asking")}


def answers() -> list[Schema]:
    return [obj(["best_first"], {"best_first": array(INDEX)}, title="Asking")]


DIALECT = Dialect(
    name=NAME,
    tells=("among",),
    lists=("among",),
    parse=parse,
    render=render,
    clients="nobody",
    fields="`ask`, `among`",
    answered="`best_first`",
    examples=(Example("asking", "Asking", {"ask": ASKED, "among": list(TOLD)}),),
    schemas=schemas,
    answers=answers,
)
