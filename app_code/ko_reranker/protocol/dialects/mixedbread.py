"""``{"query", "input": [...]}``: mixedbread, answered with ``data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents, read_rank_fields
from ..fields import read_count, read_flag, read_name, read_query, read_raw_scores, read_scoring
from ..ranking import ranked, scores
from ..schemas import ASKED, MODEL, RANK_FIELDS, RAW_SCORES, SCORED, SCORING, TOLD, USAGE, WITH_QUERY, Schema, array, obj, ref
from ..sizes import without_texts_if_too_large
from .dialect import Dialect, Example

NAME = "mixedbread"


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["input"], "input", read_rank_fields(body.get("rank_fields"))),
        top_n=read_count(body, "top_k"),
        return_documents=read_flag(body, "return_input"),
        raw_scores=read_raw_scores(body),
        model=read_name(body, "model"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    data: list[dict[str, Any]] = [
        {"index": index, "score": values[index], "object": "rank_result"} for index in ranked(request, result)
    ]
    if request.return_documents:
        for item in data:
            item["input"] = request.documents[item["index"]].source
    answer = {
        "object": "list",
        "model": request.model or result.model,
        "data": data,
        "usage": result.usage,
        "top_k": request.top_n or len(request.documents),
        "return_input": request.return_documents,
    }
    if request.return_documents:
        without_texts_if_too_large(answer, data, "input")
    return answer


def schemas(max_documents: int) -> dict[str, Schema]:
    flags = {"return_input": ref("Flag"), **RAW_SCORES}
    fields = {**WITH_QUERY, "input": ref("Documents"), "top_k": ref("Count"), **flags, **RANK_FIELDS, **MODEL, **SCORING}
    return {"Input": obj(["query", "input"], fields, title="mixedbread")}


def answers() -> list[Schema]:
    return [obj(["object", "model", "data", "usage"], {"data": array(SCORED), "usage": USAGE}, title="mixedbread")]


DIALECT = Dialect(
    name=NAME,
    tells=("input",),
    lists=("input",),
    parse=parse,
    render=render,
    clients="mixedbread",
    fields="`query`, `input` (a list)",
    answered="`data`",
    examples=(Example("mixedbread", "mixedbread", {"query": ASKED, "input": TOLD, "top_k": 1, "return_input": True}),),
    schemas=schemas,
    answers=answers,
)
