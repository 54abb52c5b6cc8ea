"""``{"query": {"text"}, "passages": [{"text"}]}``: NVIDIA NIM, answered with logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..fields import read_query, read_raw_scores, read_scoring
from ..ranking import logits, ranked, scores
from ..schemas import ASKED, INDEX, NUMBER, RAW_SCORES, SCORING, TOLD, WITH_QUERY, Schema, array, obj, ref
from .dialect import Dialect, Example

NAME = "nim"


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["passages"], "passages"),
        raw_scores=read_raw_scores(body),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result) if request.raw_scores else logits(result)
    usage = result.usage
    return {
        "rankings": [{"index": index, "logit": values[index]} for index in ranked(request, result)],
        "usage": {name: usage[name] for name in ("prompt_tokens", "total_tokens")},
    }


def schemas(max_documents: int) -> dict[str, Schema]:
    fields = {**WITH_QUERY, "passages": ref("Documents"), **RAW_SCORES, **SCORING}
    return {"Passages": obj(["query", "passages"], fields, title="NVIDIA NIM")}


def answers() -> list[Schema]:
    ranking = obj(["index", "logit"], {"index": INDEX, "logit": NUMBER})
    return [obj(["rankings"], {"rankings": array(ranking)}, title="NVIDIA NIM")]


DIALECT = Dialect(
    name=NAME,
    tells=("passages",),
    lists=("passages",),
    parse=parse,
    render=render,
    clients="NIM",
    fields="`query`, `passages`",
    answered="`rankings`, logits",
    examples=(Example("nim", "NVIDIA NIM", {"query": {"text": ASKED}, "passages": [{"text": text} for text in TOLD]}),),
    schemas=schemas,
    answers=answers,
)
