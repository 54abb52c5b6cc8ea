"""``{"query", "texts"}``: Text Embeddings Inference, answered with a bare sorted list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import echo_text, read_documents
from ..errors import ProtocolError
from ..fields import read_flag, read_query, read_scoring
from ..ranking import ranked, scores
from ..sizes import without_texts_if_too_large

NAME = "tei"
LISTS = ("texts",)


def matches(body: Mapping[str, Any]) -> bool:
    return "texts" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    if body["texts"] == []:
        raise ProtocolError(400, "texts: is empty, there is nothing to rank", "texts", "empty")
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["texts"], "texts"),
        return_documents=read_flag(body, "return_text"),
        raw_scores=read_flag(body, "raw_scores"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> list[dict[str, Any]]:
    values = scores(request, result)
    ranking = [{"index": index, "score": values[index]} for index in ranked(request, result)]
    if request.return_documents:
        for item in ranking:
            item["text"] = echo_text(request.documents[item["index"]])
        without_texts_if_too_large(ranking, ranking, "text")
    return ranking
