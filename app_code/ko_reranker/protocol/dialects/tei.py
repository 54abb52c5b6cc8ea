"""``{"query", "texts"}``: Text Embeddings Inference, answered with a bare sorted list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import echo_text, read_documents
from ..errors import ProtocolError
from ..fields import read_flag, read_query, read_raw_scores, read_scoring
from ..ranking import ranked, scores
from ..schemas import ASKED, RAW_SCORES, SCORED, SCORING, TOLD, WITH_QUERY, Schema, array, obj, ref
from ..sizes import without_texts_if_too_large
from .dialect import Dialect, Example

NAME = "tei"


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    if body["texts"] == []:
        raise ProtocolError(400, "texts: is empty, there is nothing to rank", "texts", "empty")
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["texts"], "texts"),
        return_documents=read_flag(body, "return_text"),
        raw_scores=read_raw_scores(body),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> list[dict[str, Any]]:
    values = scores(request, result)
    ranking: list[dict[str, Any]] = [{"index": index, "score": values[index]} for index in ranked(request, result)]
    if request.return_documents:
        for item in ranking:
            item["text"] = echo_text(request.documents[item["index"]])
        without_texts_if_too_large(ranking, ranking, "text")
    return ranking


def schemas(max_documents: int) -> dict[str, Schema]:
    fields = {**WITH_QUERY, "texts": ref("Documents"), "return_text": ref("Flag"), **RAW_SCORES, **SCORING}
    return {"Texts": obj(["query", "texts"], fields, title="Text Embeddings Inference")}


def answers() -> list[Schema]:
    return [array(SCORED, title="Text Embeddings Inference")]


DIALECT = Dialect(
    name=NAME,
    tells=("texts",),
    lists=("texts",),
    parse=parse,
    render=render,
    clients="TEI",
    fields="`query`, `texts`",
    answered="a bare list, best first",
    examples=(Example("tei", "Text Embeddings Inference", {"query": ASKED, "texts": TOLD, "return_text": True}),),
    schemas=schemas,
    answers=answers,
)
