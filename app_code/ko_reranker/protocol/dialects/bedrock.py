"""``{"queries": [...], "sources": [...]}``: the body of Amazon Bedrock's Rerank operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import Document, RerankRequest, RerankResult
from ..documents import read_document
from ..errors import invalid
from ..fields import kind, read_count, read_query, read_scoring
from ..ranking import ranked, scores

NAME = "bedrock"


def matches(body: Mapping[str, Any]) -> bool:
    return "sources" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(_query(body.get("queries")),),
        documents=_documents(body["sources"]),
        top_n=_number_of_results(body.get("rerankingConfiguration")),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    return {"results": [{"index": index, "relevanceScore": values[index]} for index in ranked(request, result)]}


def _query(value: Any) -> str:
    queries = value if isinstance(value, list) else [value]
    if len(queries) != 1:
        raise invalid("queries", f"must be one query, are {len(queries)}")
    query = queries[0]
    where = "queries[0]"
    if isinstance(query, dict) and "textQuery" in query:
        query, where = query["textQuery"], f"{where}.textQuery"
    return read_query(query, where)


def _documents(sources: Any) -> tuple[Document, ...]:
    if not isinstance(sources, list):
        raise invalid("sources", f"must be a list, is {kind(sources)}")
    if not sources:
        raise invalid("sources", "is empty, there is nothing to rank")
    return tuple(_document(source, f"sources[{index}]") for index, source in enumerate(sources))


def _document(source: Any, where: str) -> Document:
    if isinstance(source, dict) and isinstance(source.get("inlineDocumentSource"), dict):
        source, where = source["inlineDocumentSource"], f"{where}.inlineDocumentSource"
    for form in ("textDocument", "jsonDocument"):
        if isinstance(source, dict) and source.get(form) is not None:
            return read_document(source[form], f"{where}.{form}")
    return read_document(source, where)


def _number_of_results(configuration: Any) -> int | None:
    model = configuration.get("bedrockRerankingConfiguration") if isinstance(configuration, dict) else None
    return read_count(model, "numberOfResults") if isinstance(model, dict) else None
