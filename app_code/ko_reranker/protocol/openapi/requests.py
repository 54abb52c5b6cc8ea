"""The schemas of the requests: exactly what the readers of ``protocol.dialects`` take, and one example of each.

A body that fits one of them is answered, one that fits none is refused; what JSON Schema can't say stands in a description.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..documents import MAX_DEPTH
from ..fields import COUNT, FLAGS, ORDERS
from ..wire import SOMETHING
from .schemas import Schema, array, obj, ref

# Lists that are paired item by item must be of one length, which JSON Schema says for a length at a time only.
_PAIRED_LENGTHS = (2, 3, 4)

_ASKED = "서울의 인구는?"
_TOLD = ["부산은 항구다.", "서울의 인구는 940만 명이다."]
EXAMPLES: dict[str, tuple[str, Any]] = {
    "cohere": ("Cohere, Jina, vLLM and our own", {"query": _ASKED, "documents": _TOLD, "top_n": 1, "return_documents": True}),
    "voyage": ("Voyage", {"query": _ASKED, "documents": _TOLD, "top_k": 1, "model": "rerank-2", "truncation": True}),
    "objects": (
        "Documents of fields, the best passages first and last",
        {
            "query": _ASKED,
            "documents": [{"title": "부산", "body": _TOLD[0]}, {"title": "서울", "body": _TOLD[1]}],
            "rank_fields": ["title", "body"],
            "order": "lost_in_the_middle",
        },
    ),
    "tei": ("Text Embeddings Inference", {"query": _ASKED, "texts": _TOLD, "return_text": True}),
    "nim": ("NVIDIA NIM", {"query": {"text": _ASKED}, "passages": [{"text": text} for text in _TOLD]}),
    "mixedbread": ("mixedbread", {"query": _ASKED, "input": _TOLD, "top_k": 1, "return_input": True}),
    "score": ("vLLM's score", {"text_1": _ASKED, "text_2": _TOLD}),
    "bedrock": (
        "Amazon Bedrock",
        {
            "queries": [{"type": "TEXT", "textQuery": {"text": _ASKED}}],
            "sources": [{"inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}} for text in _TOLD],
            "rerankingConfiguration": {"bedrockRerankingConfiguration": {"numberOfResults": 1}},
        },
    ),
    "pairs": ("Hugging Face text classification", {"inputs": [{"text": _ASKED, "text_pair": text} for text in _TOLD]}),
    "parallel": ("Dify's SageMaker tools", {"inputs": [_ASKED, _ASKED], "docs": _TOLD}),
}

_QUERY = {"query": ref("Query")}
_SCORING = {
    "order": {"enum": [*ORDERS, "", None], "description": "lost_in_the_middle: the best first and last."},
    "max_tokens_per_doc": ref("Count"),
    "max_chunks_per_doc": ref("Count"),
    "instruction": ref("Name"),
}
_RANK_FIELDS = {"type": ["array", "string", "null"], "items": {"type": "string"}}
_NULL = {"type": "null"}


def requests(max_documents: int) -> dict[str, Schema]:
    """Return the schemas by name; ``Request`` is the one of the body.

    Args:
        max_documents: a request with more is refused.
    """
    dialects = _dialects(max_documents)
    either = {"description": "The first whose fields are there.", "anyOf": [ref(name) for name in dialects]}
    return {"Request": either, **dialects, **_parts(max_documents)}


def _dialects(max_documents: int) -> dict[str, Schema]:
    """The dialects in the order in which they are tried: none has the fields that tell those before it."""
    documents = ref("Documents")
    flags = {"return_documents": ref("Flag"), "raw_scores": ref("Flag")}
    counts = {"top_n": ref("Count"), "top_k": ref("Count")}
    ranked = {"rank_fields": _RANK_FIELDS, "model": ref("Name"), **_SCORING}
    before = _absent("text_1", "data_1")
    configuration = {"bedrockRerankingConfiguration": _optional(obj([], {"numberOfResults": ref("Count")}))}
    return {
        "Score": {
            "title": "vLLM's score: one text with each of the other side, or item by item",
            "anyOf": [
                *_paired("text_1", "text_2", {}),
                *_paired("data_1", "data_2", _absent("text_1")),
                *_paired("queries", "documents", before),
            ],
        },
        "Ranking": obj(
            ["query", "documents"],
            {**_QUERY, "documents": documents, **counts, **flags, **ranked, **before, **_absent("queries")},
            title="Cohere, Jina, Voyage, vLLM, Together and our own",
        ),
        "Texts": obj(
            ["query", "texts"],
            {
                **_QUERY,
                "texts": documents,
                "return_text": ref("Flag"),
                "raw_scores": ref("Flag"),
                **_SCORING,
                **(before := {**before, **_absent("documents")}),
            },
            title="Text Embeddings Inference",
        ),
        "Passages": obj(
            ["query", "passages"],
            {**_QUERY, "passages": documents, **_SCORING, **(before := {**before, **_absent("texts")})},
            title="NVIDIA NIM",
        ),
        "Input": obj(
            ["query", "input"],
            {
                **_QUERY,
                "input": documents,
                "top_k": ref("Count"),
                "return_input": ref("Flag"),
                "raw_scores": ref("Flag"),
                **ranked,
                **(before := {**before, **_absent("passages")}),
            },
            title="mixedbread",
        ),
        "Sources": obj(
            ["queries", "sources"],
            {
                "queries": {"anyOf": [ref("SourceQuery"), array(ref("SourceQuery"), minItems=1, maxItems=1)]},
                "sources": array(ref("Source"), minItems=1, maxItems=max_documents),
                "rerankingConfiguration": _optional(obj([], configuration)),
                **_SCORING,
                **(before := {**before, **_absent("input")}),
            },
            title="Amazon Bedrock",
        ),
        "InputsAndDocs": {
            "title": "Dify's SageMaker tools: the query once, or once for each document",
            "anyOf": [*_paired("inputs", "docs", before := {**before, **_absent("sources")}, scoring=_SCORING)],
        },
        "Inputs": obj(
            ["inputs"],
            {
                "inputs": {"anyOf": [ref("NamedPair"), array(ref("Pair"), minItems=1, maxItems=max_documents)]},
                "parameters": {"description": '{"function_to_apply": "none"} asks for raw scores.'},
                **_SCORING,
                **before,
                **_absent("docs"),
            },
            title="Hugging Face text classification",
        ),
    }


def _paired(one: str, other: str, before: dict[str, Schema], scoring: dict[str, Schema] | None = None) -> Iterator[Schema]:
    """Yield the forms of two sides: one query for all documents, or lists of the same length."""
    rest = {**(scoring or {"raw_scores": ref("Flag"), "model": ref("Name"), **_SCORING}), **before}
    single = {"anyOf": [ref("Query"), array(ref("Query"), minItems=1, maxItems=1)]}
    yield obj([one, other], {one: single, other: ref("Documents"), **rest})
    for length in _PAIRED_LENGTHS:
        exactly = {"minItems": length, "maxItems": length}
        pairs = {one: array(ref("Query"), **exactly), other: array(ref("Document"), **exactly)}
        yield obj([one, other], {**pairs, **rest}, description=f"As for {length}, so for any other number.")


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [_NULL, schema]}


def _absent(*names: str) -> dict[str, Schema]:
    return dict.fromkeys(names, _NULL)


def _parts(max_documents: int) -> dict[str, Schema]:
    text = {"type": "string"}
    lines: Schema = {"type": ["string", "number", "boolean", "object", "null"]}
    # An object with a text may have any content beside it.
    with_text, content = (
        {"text": text},
        {"content": {"anyOf": [lines, array({"anyOf": [text, obj(["text"], {"text": text})]})]}},
    )
    outside = _absent("inlineDocumentSource")
    inline = [
        obj(["textDocument"], {"textDocument": ref("Document")}),
        obj(["jsonDocument"], {"jsonDocument": ref("Document"), **_absent("textDocument")}),
    ]
    query_text = {"text": ref("Text")}
    two = {"type": "array", "prefixItems": [ref("Query"), text], "minItems": 2, "maxItems": 2}
    return {
        "Text": {"type": "string", "pattern": SOMETHING, "description": "Not blank."},
        "Query": {"anyOf": [ref("Text"), obj(["text"], query_text)]},
        "Document": {
            "description": "A string, or an object: its text, its content, or else its fields as `key: value` lines. "
            f"Objects nested deeper than {MAX_DEPTH} levels are refused.",
            "anyOf": [text, obj(["text"], with_text), obj([], content)],
        },
        "Documents": {
            "anyOf": [text, array(ref("Document"), minItems=1, maxItems=max_documents)],
            "description": "Empty and blank documents rank last.",
        },
        "NamedPair": obj(["text", "text_pair"], {"text": ref("Query"), "text_pair": text}),
        "Pair": {"anyOf": [ref("NamedPair"), two]},
        "SourceQuery": {
            "anyOf": [
                ref("Text"),
                obj(["textQuery"], {"textQuery": ref("Query")}),
                obj(["text"], {**query_text, **_absent("textQuery")}),
            ]
        },
        "Source": {
            "description": "As Amazon Bedrock writes it, or a document as elsewhere.",
            "anyOf": [
                obj(["inlineDocumentSource"], {"inlineDocumentSource": {"anyOf": inline}}),
                text,
                obj(["text"], {**with_text, **outside}),
                obj([], {**content, **outside}),
            ],
        },
        "Count": {
            "description": "At least 1; null is absent.",
            "anyOf": [_NULL, {"type": "integer", "minimum": 1}, {"type": "string", "pattern": COUNT}],
        },
        "Flag": {"description": "null is absent.", "enum": [None, *FLAGS, 1, 0]},
        "Name": {"type": ["string", "null"]},
    }
