"""``{"query", "input": [...]}``: mixedbread, answered with ``data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents, read_rank_fields
from ..fields import read_count, read_flag, read_name, read_query, read_scoring
from ..ranking import ranked, scores
from ..sizes import without_texts_if_too_large

NAME = "mixedbread"
LISTS = ("input",)


def matches(body: Mapping[str, Any]) -> bool:
    return "input" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["input"], "input", read_rank_fields(body.get("rank_fields"))),
        top_n=read_count(body, "top_k"),
        return_documents=read_flag(body, "return_input"),
        raw_scores=read_flag(body, "raw_scores"),
        model=read_name(body, "model"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    data = [{"index": index, "score": values[index], "object": "rank_result"} for index in ranked(request, result)]
    if request.return_documents:
        for item in data:
            item["input"] = request.documents[item["index"]].source
    tokens = sum(result.tokens)
    answer = {
        "object": "list",
        "model": request.model or result.model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        "top_k": request.top_n or len(request.documents),
        "return_input": request.return_documents,
    }
    if request.return_documents:
        without_texts_if_too_large(answer, data, "input")
    return answer
