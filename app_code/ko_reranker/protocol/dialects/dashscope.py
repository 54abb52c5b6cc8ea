"""``{"input": {"query", "documents"}, "parameters": {…}}``: Alibaba Cloud's DashScope, its SDK, LightRAG and Dify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import echo_text, read_documents
from ..fields import read_flag, read_name, read_object, read_query, read_raw_scores, read_scoring, read_top_n
from ..ranking import ranked, scores
from ..schemas import (
    ASKED,
    MODEL,
    RAW_SCORES,
    RESULT,
    SCORING,
    TEXT,
    TOLD,
    WITH_QUERY,
    Schema,
    absent,
    array,
    obj,
    optional,
    ref,
)
from ..sizes import without_texts_if_too_large
from .dialect import Dialect, Example

NAME = "dashscope"


def matches(body: Mapping[str, Any]) -> bool:
    # vLLM's content is an object, too, and what mixedbread's `input` may be.
    given = body.get("input")
    return isinstance(given, dict) and given.get("content") is None and ("query" in given or "documents" in given)


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    given = read_object(body, "input", "input")
    parameters = read_object(body, "parameters", "parameters")
    top_n, warnings = read_top_n(parameters)
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(given.get("query"), "input.query"),),
        documents=read_documents(given.get("documents"), "input.documents"),
        top_n=top_n,
        return_documents=read_flag(parameters, "return_documents"),
        raw_scores=read_raw_scores(parameters),
        model=read_name(body, "model"),
        warnings=warnings,
        **read_scoring(parameters),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": values[index]} for index in ranked(request, result)]
    answer = {
        "output": {"results": results},
        "usage": {"total_tokens": result.usage["total_tokens"]},
        "request_id": result.id,
    }
    if request.return_documents:
        for item in results:
            item["document"] = {"text": echo_text(request.documents[item["index"]])}
        without_texts_if_too_large(answer, results, "document")
    return answer


def schemas(max_documents: int) -> dict[str, Schema]:
    parameters = {"top_n": ref("CountOrAll"), "return_documents": ref("Flag"), **RAW_SCORES, **SCORING}
    fields = {
        "input": obj(["query", "documents"], {**WITH_QUERY, "documents": ref("Documents"), **absent("content")}),
        "parameters": optional(obj([], parameters)),
        **MODEL,
    }
    return {"InputAndParameters": obj(["input"], fields, title="DashScope")}


def answers() -> list[Schema]:
    fields = {"output": obj(["results"], {"results": array(RESULT)}), "request_id": TEXT}
    return [obj(["output", "usage", "request_id"], fields, title="DashScope")]


DIALECT = Dialect(
    name=NAME,
    # Its one field is mixedbread's, too.
    tells=(),
    matches=matches,
    lists=("input.documents",),
    parse=parse,
    render=render,
    clients="DashScope",
    fields="`input` (an object of `query` and `documents`), `parameters`",
    answered="`output.results`",
    examples=(
        Example(
            "dashscope",
            "DashScope",
            {"input": {"query": ASKED, "documents": TOLD}, "parameters": {"return_documents": True}},
        ),
    ),
    schemas=schemas,
    answers=answers,
)
