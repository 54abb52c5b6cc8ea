"""``{"query", "documents", "top_n"}``: Cohere v1 and v2, Jina, Voyage, vLLM, Together, and our native body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import echo, echo_text, read_documents, read_rank_fields
from ..fields import read_count, read_flag, read_name, read_query, read_scoring
from ..ranking import ranked, scores
from ..sizes import MAX_ANSWER_BYTES, TEXTS_LEFT_OUT, fits, without_texts_if_too_large

NAME = "cohere"
LISTS = ("documents",)

_DOCUMENTS_PER_SEARCH_UNIT = 100
_INDEXES_IN_WARNING = 10
# An answer without texts is at most this long per result, so most answers need not be measured.
_BYTES_PER_RESULT = 150


def matches(body: Mapping[str, Any]) -> bool:
    return "documents" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    top_k = read_count(body, "top_k")
    top_n = read_count(body, "top_n")
    list_style = "top_k" in body or "truncation" in body
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body.get("documents"), rank_fields=read_rank_fields(body.get("rank_fields"))),
        top_n=top_k if top_n is None else top_n,
        return_documents=read_flag(body, "return_documents"),
        raw_scores=read_flag(body, "raw_scores"),
        model=read_name(body, "model"),
        api_version="1" if "/v1/" in path else "2",
        list_style=list_style,
        plain_documents=list_style or path.startswith("/infinity/"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    results = [{"index": index, "relevance_score": values[index]} for index in ranked(request, result)]
    if request.return_documents:
        shown = echo_text if request.plain_documents else echo
        for item in results:
            item["document"] = shown(request.documents[item["index"]])
    tokens = sum(result.tokens)
    answer = {
        "id": result.id,
        "object": "list" if request.list_style else "rerank",
        "model": request.model or result.model,
        "created": result.created,
        "results": results,
        "data": results,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": request.api_version, "is_experimental": False},
            "billed_units": {"search_units": -(-len(request.documents) // _DOCUMENTS_PER_SEARCH_UNIT)},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
            "warnings": _warnings(request, result),
        },
    }
    if request.return_documents or len(results) * _BYTES_PER_RESULT > MAX_ANSWER_BYTES:
        _fit(answer)
    return answer


def _warnings(request: RerankRequest, result: RerankResult) -> list[str]:
    warnings = ["the query was truncated: its end was not read"] if result.query_truncated else []
    cut = [index for index, truncated in enumerate(result.truncated) if truncated]
    if cut:
        warnings.append(f"truncated, the end was not read: {_named(cut, result)}")
    chunked = [index for index, count in enumerate(result.chunks) if count > 1]
    if chunked:
        warnings.append(f"read in several pieces, of which the best counts: {_named(chunked, result)}")
    if request.instruction is not None:
        warnings.append("no model here reads an instruction: the scores are those without")
    return warnings


def _named(indexes: list[int], result: RerankResult) -> str:
    named = ", ".join(str(index) for index in indexes[:_INDEXES_IN_WARNING])
    named += ", …" if len(indexes) > _INDEXES_IN_WARNING else ""
    return f"{len(indexes)} of {len(result.logits)} documents (index {named})"


def _fit(answer: dict[str, Any]) -> None:
    """Make an answer fit: the second copy of the results goes first, then the documents."""
    if fits(answer):
        return
    del answer["data"]
    warnings: list[str] = answer["meta"]["warnings"]
    warnings.append("data was left out, because the answer would pass 5 MB: read results")
    if "document" in answer["results"][0] and without_texts_if_too_large(answer, answer["results"], "document"):
        warnings.append(TEXTS_LEFT_OUT)
