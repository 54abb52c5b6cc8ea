"""``{"queries": [...], "sources": [...]}``: the body of Amazon Bedrock's Rerank operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import Document, RerankRequest, RerankResult
from ..documents import read_document
from ..errors import invalid
from ..fields import kind, read_count, read_object, read_query, read_scoring
from ..ranking import ranked, scores

NAME = "bedrock"
LISTS = ("sources",)

_INLINE = "inlineDocumentSource"
_CONFIGURATION, _MODEL = "rerankingConfiguration", "bedrockRerankingConfiguration"


def matches(body: Mapping[str, Any]) -> bool:
    return "sources" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(_query(body.get("queries")),),
        documents=_documents(body["sources"]),
        top_n=_number_of_results(body),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    return {"results": [{"index": index, "relevanceScore": values[index]} for index in ranked(request, result)]}


def _query(value: Any) -> str:
    queries = value if isinstance(value, list) else [value]
    if len(queries) != 1:
        raise invalid("queries", f"must be one query, are {len(queries)}")
    query, where = queries[0], "queries[0]"
    if isinstance(query, dict) and query.get("textQuery") is not None:
        query, where = query["textQuery"], f"{where}.textQuery"
    return read_query(query, where)


def _documents(sources: Any) -> tuple[Document, ...]:
    if not isinstance(sources, list):
        raise invalid("sources", f"must be a list, is {kind(sources)}")
    if not sources:
        raise invalid("sources", "is empty, there is nothing to rank")
    return tuple(_document(source, f"sources[{index}]") for index, source in enumerate(sources))


def _document(source: Any, where: str) -> Document:
    if not isinstance(source, dict) or source.get(_INLINE) is None:
        return read_document(source, where)
    inline, where = read_object(source, _INLINE, f"{where}.{_INLINE}"), f"{where}.{_INLINE}"
    for form in ("textDocument", "jsonDocument"):
        if inline.get(form) is not None:
            return read_document(inline[form], f"{where}.{form}")
    raise invalid(where, "has neither textDocument nor jsonDocument")


def _number_of_results(body: Mapping[str, Any]) -> int | None:
    configuration = read_object(body, _CONFIGURATION, _CONFIGURATION)
    return read_count(read_object(configuration, _MODEL, f"{_CONFIGURATION}.{_MODEL}"), "numberOfResults")
