"""``{"queries": [...], "sources": [...]}``: the body of Amazon Bedrock's Rerank operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import Document, RerankRequest, RerankResult
from ..documents import Rendering, read_document
from ..errors import invalid
from ..fields import kind, read_count, read_object, read_query, read_scoring
from ..ranking import ranked, scores
from ..schemas import (
    ASKED,
    INDEX,
    PROBABILITY,
    SCORING,
    TEXT,
    TOLD,
    WITH_TEXT,
    Schema,
    absent,
    array,
    obj,
    optional,
    ref,
    with_content,
)
from .dialect import Dialect, Example

NAME = "bedrock"

_INLINE = "inlineDocumentSource"
_CONFIGURATION, _MODEL = "rerankingConfiguration", "bedrockRerankingConfiguration"


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
    rendering = Rendering()
    return tuple(_document(source, f"sources[{index}]", rendering) for index, source in enumerate(sources))


def _document(source: Any, where: str, rendering: Rendering) -> Document:
    if not isinstance(source, dict) or source.get(_INLINE) is None:
        return read_document(source, where, rendering=rendering)
    inline, where = read_object(source, _INLINE, f"{where}.{_INLINE}"), f"{where}.{_INLINE}"
    for form in ("textDocument", "jsonDocument"):
        if inline.get(form) is not None:
            return read_document(inline[form], f"{where}.{form}", rendering=rendering)
    raise invalid(where, "has neither textDocument nor jsonDocument")


def _number_of_results(body: Mapping[str, Any]) -> int | None:
    configuration = read_object(body, _CONFIGURATION, _CONFIGURATION)
    return read_count(read_object(configuration, _MODEL, f"{_CONFIGURATION}.{_MODEL}"), "numberOfResults")


def schemas(max_documents: int) -> dict[str, Schema]:
    configuration = {_MODEL: optional(obj([], {"numberOfResults": ref("Count")}))}
    fields = {
        "queries": {"anyOf": [ref("SourceQuery"), array(ref("SourceQuery"), minItems=1, maxItems=1)]},
        "sources": array(ref("Source"), minItems=1, maxItems=max_documents),
        _CONFIGURATION: optional(obj([], configuration)),
        **SCORING,
    }
    inline = [
        obj(["textDocument"], {"textDocument": ref("Document")}),
        obj(["jsonDocument"], {"jsonDocument": ref("Document"), **absent("textDocument")}),
    ]
    source = [
        obj([_INLINE], {_INLINE: {"anyOf": inline}}),
        TEXT,
        obj(["text"], {**WITH_TEXT, **absent(_INLINE)}),
        obj([], {**with_content(), **absent(_INLINE)}),
    ]
    query = [
        ref("Text"),
        obj(["textQuery"], {"textQuery": ref("Query")}),
        obj(["text"], {"text": ref("Text"), **absent("textQuery")}),
    ]
    return {
        "Sources": obj(["queries", "sources"], fields, title="Amazon Bedrock"),
        "SourceQuery": {"anyOf": query},
        "Source": {"description": "As Amazon Bedrock writes it, or a document as elsewhere.", "anyOf": source},
    }


def answers() -> list[Schema]:
    result = obj(["index", "relevanceScore"], {"index": INDEX, "relevanceScore": PROBABILITY})
    return [obj(["results"], {"results": array(result)}, title="Amazon Bedrock")]


DIALECT = Dialect(
    name=NAME,
    tells=("sources",),
    lists=("sources",),
    parse=parse,
    render=render,
    clients="Bedrock",
    fields="`queries`, `sources`",
    answered="`results`",
    examples=(
        Example(
            "bedrock",
            "Amazon Bedrock",
            {
                "queries": [{"type": "TEXT", "textQuery": {"text": ASKED}}],
                "sources": [{_INLINE: {"type": "TEXT", "textDocument": {"text": text}}} for text in TOLD],
                _CONFIGURATION: {_MODEL: {"numberOfResults": 1}},
            },
        ),
    ),
    schemas=schemas,
    answers=answers,
)
