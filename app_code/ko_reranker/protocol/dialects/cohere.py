"""``{"query", "documents", "top_n"}``: Cohere v1 and v2, Jina, Voyage, vLLM, Together, and our native body.

Two clients send these very bytes and read another answer. Weaviate's reads ``scores``, in the order of the documents, and sends
nothing but query and documents to ``/rerank``: such an answer has that field more. Elasticsearch's ``hugging_face`` service
reads the bare list of Text Embeddings Inference: under ``/huggingface`` there is that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import QUERY, RerankRequest, RerankResult
from ..documents import echo, echo_text, read_documents, read_rank_fields
from ..fields import read_count, read_flag, read_name, read_query, read_raw_scores, read_scoring, read_top_n
from ..ranking import ranked, scores
from ..schemas import (
    ASKED,
    INDEX,
    MODEL,
    NUMBER,
    RANK_FIELDS,
    RAW_SCORES,
    RESULT,
    SCORING,
    TEXT,
    TOLD,
    USAGE,
    WITH_QUERY,
    Schema,
    absent,
    array,
    obj,
    ref,
)
from ..sizes import MAX_ANSWER_BYTES, TEXTS_LEFT_OUT, fits, without_texts_if_too_large
from . import tei
from .dialect import Dialect, Example

NAME = "cohere"

_DOCUMENTS_PER_SEARCH_UNIT = 100
_INDEXES_IN_WARNING = 10
_UNREPAIRED = "read as sent, because undoing escapes or a YAML dump would take too long"
# An answer without texts is at most this long per result, so most answers need not be measured.
_BYTES_PER_RESULT = 150


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    top_k = read_count(body, "top_k")
    top_n, warnings = read_top_n(body)
    if top_k is not None:
        warnings = ()  # it counts where top_n says nothing
    list_style = "top_k" in body or "truncation" in body
    return RerankRequest(
        dialect=tei.NAME if path.startswith("/huggingface/") else NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body.get("documents"), rank_fields=read_rank_fields(body.get("rank_fields"))),
        top_n=top_k if top_n is None else top_n,
        return_documents=read_flag(body, "return_documents"),
        raw_scores=read_raw_scores(body),
        model=read_name(body, "model"),
        api_version="1" if "/v1/" in path else "2",
        list_style=list_style,
        plain_documents=list_style or path.startswith("/infinity/"),
        input_order_scores=path == "/rerank" and body.keys() == {"query", "documents"},
        warnings=warnings,
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": values[index]} for index in ranked(request, result)]
    if request.return_documents:
        shown = echo_text if request.plain_documents else echo
        for item in results:
            item["document"] = shown(request.documents[item["index"]])
    usage = result.usage
    answer: dict[str, Any] = {
        "id": result.id,
        "object": "list" if request.list_style else "rerank",
        "model": request.model or result.model,
        "created": result.created,
        "results": results,
        "data": results,
        "usage": usage,
        "meta": {
            "api_version": {"version": request.api_version, "is_experimental": False},
            "billed_units": {"search_units": -(-len(request.documents) // _DOCUMENTS_PER_SEARCH_UNIT)},
            "tokens": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
            "warnings": _warnings(request, result),
            **_scale(request, result),
            **_cost(result),
        },
    }
    if request.input_order_scores:
        texts = map(echo_text, request.documents)
        answer["scores"] = [{"document": text, "score": value} for text, value in zip(texts, values, strict=True)]
    if request.return_documents or request.input_order_scores or len(results) * _BYTES_PER_RESULT > MAX_ANSWER_BYTES:
        _fit(answer)
    return answer


def _scale(request: RerankRequest, result: RerankResult) -> dict[str, str]:
    """Return what the scores are, where they are neither 0 to 1 nor logits."""
    if not result.absolute:
        return {"scale": "rank"}
    return {"scale": result.raw_scale} if request.raw_scores and result.raw else {}


def _cost(result: RerankResult) -> dict[str, dict[str, int]]:
    """Return what it took, where documents were compared."""
    if result.effort is None:
        return {}
    calls = {"model_calls": result.effort.model_calls, "comparisons": result.effort.comparisons}
    return {"cost": calls | {"input_tokens": sum(result.tokens), "output_tokens": result.effort.output_tokens}}


def _warnings(request: RerankRequest, result: RerankResult) -> list[str]:
    warnings = [*request.warnings, *result.warnings]
    if result.query_truncated:
        warnings.append("the query was truncated: its end was not read")
    cut = [index for index, truncated in enumerate(result.truncated) if truncated]
    if cut:
        warnings.append(f"truncated, the end was not read: {_named(cut, result)}")
    chunked = [index for index, count in enumerate(result.chunks) if count > 1]
    if chunked:
        warnings.append(f"read in several chunks, of which the best counts: {_named(chunked, result)}")
    unrepaired = [index for index in result.unrepaired if index != QUERY]
    if unrepaired:
        warnings.append(f"{_UNREPAIRED}: {_named(unrepaired, result)}")
    if QUERY in result.unrepaired:
        warnings.append(f"{_UNREPAIRED}: the query")
    if request.instruction is not None and not result.instructed:
        warnings.append("the model reads no instruction: the scores are those without")
    if not result.absolute:
        warnings.append("scores are places within this answer: they tell nothing across requests")
    return warnings


def _named(indexes: list[int], result: RerankResult) -> str:
    named = ", ".join(str(index) for index in indexes[:_INDEXES_IN_WARNING])
    named += ", …" if len(indexes) > _INDEXES_IN_WARNING else ""
    return f"{len(indexes)} of {len(result.logits)} documents (index {named})"


def _fit(answer: dict[str, Any]) -> None:
    """Make an answer fit: what only Weaviate reads goes first, then the second copy of the results, then the documents."""
    if not fits(answer):
        answer.pop("scores", None)
    if fits(answer):
        return
    del answer["data"]
    warnings: list[str] = answer["meta"]["warnings"]
    warnings.append("data was left out, because the answer would pass 5 MB: read results")
    if "document" in answer["results"][0] and without_texts_if_too_large(answer, answer["results"], "document"):
        warnings.append(TEXTS_LEFT_OUT)


def schemas(max_documents: int) -> dict[str, Schema]:
    counts = {"top_n": ref("CountOrAll"), "top_k": ref("Count")}
    flags = {"return_documents": ref("Flag"), **RAW_SCORES}
    fields = {**WITH_QUERY, "documents": ref("Documents"), **counts, **flags, **RANK_FIELDS, **MODEL, **SCORING}
    # Documents beside queries are vLLM's.
    fields |= absent("queries")
    return {"Ranking": obj(["query", "documents"], fields, title="Cohere, Jina, Voyage, vLLM, Together and our own")}


def answers() -> list[Schema]:
    weaviates = obj(["document", "score"], {"document": TEXT, "score": NUMBER})
    meta = {
        "api_version": obj(["version"], {"version": TEXT}),
        "billed_units": obj(["search_units"], {"search_units": INDEX}),
        "tokens": obj(["input_tokens"], {"input_tokens": INDEX}),
        "warnings": array(TEXT),
        "scale": {
            "enum": ["rank", "maxsim_sum", "maxsim_mean"],
            "description": "There where scores are places within the answer, or raw ones that are no logits.",
        },
        "cost": obj(
            ["model_calls", "comparisons", "input_tokens", "output_tokens"],
            dict.fromkeys(("model_calls", "comparisons", "input_tokens", "output_tokens"), INDEX),
            description="There where documents were compared with each other: what that took.",
        ),
    }
    fields = {
        "id": TEXT,
        "object": {"enum": ["rerank", "list"]},
        "model": TEXT,
        "created": INDEX,
        "results": array(RESULT),
        "data": array(RESULT, description="The same as results; left out of answers past 5 MB."),
        "usage": USAGE,
        "scores": array(
            weaviates,
            description="In the order of the documents, for Weaviate: only at /rerank, of a body of query and documents.",
        ),
        "meta": obj(["api_version", "billed_units", "tokens", "warnings"], meta),
    }
    return [obj(["id", "object", "model", "created", "results", "usage", "meta"], fields)]


DIALECT = Dialect(
    name=NAME,
    tells=("documents",),
    lists=("documents",),
    parse=parse,
    render=render,
    clients="Cohere, Jina, Voyage, vLLM, Together, …",
    fields="`query`, `documents`",
    answered="`results` and the same as `data`; `scores` as well at `/rerank`, for Weaviate, where nothing else is sent",
    examples=(
        Example(
            "cohere",
            "Cohere, Jina, vLLM and our own",
            {"query": ASKED, "documents": TOLD, "top_n": 1, "return_documents": True},
        ),
        Example("voyage", "Voyage", {"query": ASKED, "documents": TOLD, "top_k": 1, "model": "rerank-2", "truncation": True}),
        Example(
            "objects",
            "Documents of fields, the best passages first and last",
            {
                "query": ASKED,
                "documents": [{"title": "부산", "body": TOLD[0]}, {"title": "서울", "body": TOLD[1]}],
                "rank_fields": ["title", "body"],
                "order": "lost_in_the_middle",
            },
        ),
    ),
    schemas=schemas,
    answers=answers,
)
