"""Words that the schemas of the dialects are written with, and what all of them share: exactly what the readers here take.

A body that fits a schema is answered, one that fits none is refused; what JSON Schema can't say stands in a description.
Schemas are made only when somebody asks for the OpenAPI document, so that no start pays for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .documents import MAX_DEPTH
from .fields import COUNT, FLAGS, ORDERS
from .wire import SOMETHING

Schema = dict[str, Any]

# What the examples ask.
ASKED = "서울의 인구는?"
TOLD = ["부산은 항구다.", "서울의 인구는 940만 명이다."]

# Lists that are paired item by item must be of one length, which JSON Schema says for a length at a time only.
_PAIRED_LENGTHS = (2, 3, 4)


def obj(required: list[str], properties: dict[str, Schema], **more: Any) -> Schema:
    """Return the schema of an object; other properties than these are left open."""
    return {"type": "object", "required": required, "properties": properties, **more}


def array(items: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def optional(schema: Schema) -> Schema:
    """Return the schema of what may be null, too."""
    return {"anyOf": [NULL, schema]}


def absent(*names: str) -> dict[str, Schema]:
    """Return the properties of an object that has none of these fields."""
    return dict.fromkeys(names, NULL)


NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
INDEX: Schema = {"type": "integer", "minimum": 0}

# Fields that several dialects have.
WITH_QUERY = {"query": ref("Query")}
SCORING: dict[str, Schema] = {
    "order": {"enum": [*ORDERS, "", None], "description": "lost_in_the_middle: the best first and last."},
    "max_tokens_per_doc": ref("Count"),
    "max_chunks_per_doc": ref("Count"),
    "instruction": ref("Name"),
    "instruct": ref("Name"),
}
RAW_SCALE: Schema = {
    "enum": ["logit", "maxsim_sum", "maxsim_mean", "rank"],
    "description": "What raw scores are: logits; the MaxSim of late interaction as its model defines it; rank of a model that "
    "compares documents, (n - rank) / n.",
}
RAW_SCORES = {"raw_scores": ref("Flag"), "use_activation": ref("Flag"), "activation": ref("Flag")}
RANK_FIELDS = {"rank_fields": {"type": ["array", "string", "null"], "items": TEXT}}
MODEL = {"model": ref("Name")}

# Of an answer.
USAGE = obj(["prompt_tokens", "total_tokens"], {"prompt_tokens": INDEX, "total_tokens": INDEX})
RESULT = obj(
    ["index", "relevance_score"],
    {"index": INDEX, "relevance_score": NUMBER, "document": {"type": ["object", "string"]}},
)
SCORED = obj(["index", "score"], {"index": INDEX, "score": NUMBER, "text": TEXT})

# A document that is an object; one with a text may have any content beside it.
WITH_TEXT = {"text": TEXT}


def with_content() -> dict[str, Schema]:
    """Return the properties of a document without a text: its content, or else fields of any kind."""
    lines: Schema = {"type": ["string", "number", "boolean", "object", "null"]}
    return {"content": {"anyOf": [lines, array(_part())]}}


def paired(one: str, other: str, rest: dict[str, Schema]) -> Iterator[Schema]:
    """Yield the forms of two sides: one query for all documents, or lists of the same length.

    Args:
        one: the field of the queries.
        other: the field of the documents.
        rest: the other properties.
    """
    single = {"anyOf": [ref("Text"), _query_text(), _query_content(maxItems=1), array(ref("Query"), minItems=1, maxItems=1)]}
    yield obj([one, other], {one: single, other: ref("Documents"), **rest})
    for length in _PAIRED_LENGTHS:
        exactly = {"minItems": length, "maxItems": length}
        queries = [array(ref("Query"), **exactly), _content(_query_part(), **exactly)]
        documents = [array(ref("Document"), **exactly), _content(_part(), **exactly)]
        pairs = {one: {"anyOf": queries}, other: {"anyOf": documents}}
        yield obj([one, other], {**pairs, **rest}, description=f"As for {length}, so for any other number.")


def shared(max_documents: int) -> dict[str, Schema]:
    """Return the schemas that those of the dialects refer to.

    Args:
        max_documents: a request with more is refused.
    """
    return {
        "Text": {"type": "string", "pattern": SOMETHING, "description": "Not blank."},
        "Query": {"anyOf": [ref("Text"), _query_text(), _query_content()]},
        "Document": {
            "description": "A string, or an object: its text, its content, or else its fields as `key: value` lines. "
            f"Objects nested deeper than {MAX_DEPTH} levels are refused.",
            "anyOf": [TEXT, obj(["text"], WITH_TEXT), obj([], with_content())],
        },
        "Documents": {
            "anyOf": [
                TEXT,
                array(ref("Document"), minItems=1, maxItems=max_documents),
                _content(_part(), minItems=1, maxItems=max_documents),
            ],
            "description": "Empty and blank documents rank last. Each part of a content is a document.",
        },
        "Count": {
            "description": "At least 1; null is absent.",
            "anyOf": [NULL, {"type": "integer", "minimum": 1}, {"type": "string", "pattern": COUNT}],
        },
        "CountOrAll": {
            "description": "null is absent, and 0 is all.",
            "anyOf": [ref("Count"), {"const": 0}, {"type": "string", "pattern": "^0+$"}],
        },
        "Flag": {"description": "null is absent.", "enum": [None, *FLAGS, 1, 0]},
        "Name": {"type": ["string", "null"]},
    }


def _part() -> Schema:
    """A part of vLLM's content, one of text."""
    return {"anyOf": [TEXT, obj(["text"], WITH_TEXT)]}


def _query_part() -> Schema:
    return {"anyOf": [ref("Text"), _query_text()]}


def _query_text() -> Schema:
    return obj(["text"], {"text": ref("Text")})


def _content(part: Schema, **more: Any) -> Schema:
    return obj(["content"], {"content": array(part, **more), **absent("text")})


def _query_content(**more: Any) -> Schema:
    return _content(_part(), contains=_query_part(), **more)
