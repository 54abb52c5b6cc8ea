"""The OpenAPI 3.1 document at /openapi.json. Imported only when it is asked for.

Schemas are as lenient as the readers of requests are, and no more: what they allow is answered, what they forbid is refused.
"""

from __future__ import annotations

from typing import Any

from .fields import ORDERS
from .routes import NIM_PATH, RERANK_PATHS, SCORE_PATHS
from .service import MAX_DOCUMENTS
from .wire import SOMETHING

Schema = dict[str, Any]

_KEYS = [{"bearer": []}, {"x-api-key": []}, {"api-key": []}]
_ERRORS = {
    400: "The body is not JSON, or holds no texts at all.",
    401: "No key, or an unknown one.",
    403: "The key is not allowed here.",
    404: "There is nothing at this path.",
    405: "The path takes another method.",
    413: "The body or the answer is too large.",
    415: "The body is not JSON.",
    422: "A field is not valid; the message names it.",
    429: "Too many requests, a used-up quota, or a model that is busy or starting: come again after Retry-After seconds.",
    500: "A defect.",
    503: "The model cannot be reached.",
}
_GET_ERRORS = (401, 403, 404, 405, 429, 500, 503)


def document(server: str = "/") -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        server: the base URL of the API.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ko-reranker",
            "version": "1",
            "description": "Ranks documents by their relevance to a query. The body decides the dialect, whatever the path: "
            "clients of Cohere, Jina, Voyage, TEI, NIM, mixedbread, vLLM and others change only URL and key.",
        },
        "servers": [{"url": server}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": {str(status): _error(status, text) for status, text in _ERRORS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {path: {"post": _rerank(path)} for path in (*RERANK_PATHS, *SCORE_PATHS)}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "pattern": r"^[A-Za-z0-9._-]+$"}}
    paths[NIM_PATH] = {"post": {**_rerank(NIM_PATH), "parameters": [model]}}
    paths["/v1/models"] = {"get": _get("listModels", "The model that is served.", "Models")}
    paths["/models"] = {"get": _get("listModelsToo", "The model that is served.", "Models")}
    paths["/info"] = {"get": _get("info", "The model and the limits, as Text Embeddings Inference tells them.", "Info")}
    paths["/health"] = {"get": _get("health", "Whether the service runs.", "Health", open_to_all=True)}
    paths["/openapi.json"] = {"get": _get("openapi", "This document.", "Document", open_to_all=True)}
    return paths


def _rerank(path: str) -> dict[str, Any]:
    return {
        "operationId": "post" + "".join(word.capitalize() for word in path.replace("{model}", "model").split("/")),
        "summary": "Score pairs of texts." if path in SCORE_PATHS else "Rank documents.",
        "security": _KEYS,
        "requestBody": {"required": True, "content": _json("Request")},
        "responses": {
            "200": {"description": "The answer, in the dialect of the request.", "content": _json("Answer")},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in _ERRORS},
        },
    }


def _get(name: str, summary: str, schema: str, *, open_to_all: bool = False) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "security": [] if open_to_all else _KEYS,
        "responses": {
            "200": {"description": summary, "content": _json(schema)},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in _GET_ERRORS},
        },
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _error(status: int, description: str) -> dict[str, Any]:
    retry = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "string"}}}
    return {"description": description, "content": _json("Error"), **({"headers": retry} if status == 429 else {})}


def _object(required: list[str], properties: dict[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "required": required, "properties": properties, **more}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> dict[str, Schema]:
    return {**_requests(), **_request_parts(), **_answers(), **_service()}


def _requests() -> dict[str, Schema]:
    scoring = {
        "order": {"enum": [*ORDERS, "", None], "description": "lost_in_the_middle: the best first and last."},
        "max_tokens_per_doc": _ref("Count"),
        "max_chunks_per_doc": _ref("Count"),
        "instruction": _ref("Name"),
    }
    query = {"query": _ref("Query")}
    ranked = {
        **query,
        "documents": _ref("Documents"),
        "top_n": _ref("Count"),
        "top_k": _ref("Count"),
        "return_documents": _ref("Flag"),
        "raw_scores": _ref("Flag"),
        "rank_fields": {"type": ["array", "string", "null"], "items": {"type": "string"}},
        "model": _ref("Name"),
        **scoring,
    }
    tei = {**query, "texts": _ref("Documents"), "return_text": _ref("Flag"), "raw_scores": _ref("Flag"), **scoring}
    mixedbread = {
        **query,
        "input": _ref("Documents"),
        "top_k": _ref("Count"),
        "return_input": _ref("Flag"),
        "raw_scores": _ref("Flag"),
        "rank_fields": ranked["rank_fields"],
        "model": _ref("Name"),
        **scoring,
    }
    score = {
        "text_1": {"anyOf": [_ref("Query"), _list(_ref("Query"), minItems=1, maxItems=1)]},
        "text_2": _ref("Documents"),
        "raw_scores": _ref("Flag"),
        "model": _ref("Name"),
        **scoring,
    }
    pairs = _list(_object(["text", "text_pair"], {"text": _ref("Query"), "text_pair": {"type": "string"}}), minItems=1)
    text_query = _object(["textQuery"], {"textQuery": _object(["text"], {"text": _ref("Text")})})
    bedrock = {
        "queries": _list(text_query, minItems=1, maxItems=1),
        "sources": _list(_ref("Source"), minItems=1, maxItems=MAX_DOCUMENTS),
        **scoring,
    }
    return {
        "Request": {
            "description": "One of the dialects, told apart by the names of their fields.",
            "anyOf": [
                _dialect(["query", "documents"], ranked, "Cohere, Jina, Voyage, vLLM, Together and our own"),
                _dialect(["query", "texts"], tei, "Text Embeddings Inference"),
                _dialect(["query", "passages"], {**query, "passages": _ref("Documents"), **scoring}, "NVIDIA NIM"),
                _dialect(["query", "input"], mixedbread, "mixedbread"),
                _dialect(["text_1", "text_2"], score, "vLLM's score"),
                _dialect(["queries", "sources"], bedrock, "Amazon Bedrock"),
                _dialect(["inputs"], {"inputs": pairs, **scoring}, "Hugging Face text classification"),
                _dialect(
                    ["inputs", "docs"], {"inputs": _ref("Text"), "docs": _ref("Documents"), **scoring}, "Dify's SageMaker"
                ),
            ],
        }
    }


# Every name that tells one dialect from another.
_MARKS = ("format", "text_1", "data_1", "queries", "documents", "texts", "passages", "input", "sources", "docs", "inputs")


def _dialect(required: list[str], properties: dict[str, Schema], title: str) -> Schema:
    others = {name: {"type": "null"} for name in _MARKS if name not in properties}
    return _object(required, {**properties, **others}, title=title)


def _request_parts() -> dict[str, Schema]:
    # A lone text field may be anything: an object that has no text in it is scored as `key: value` lines.
    part = {"anyOf": [{"type": "string"}, _object(["text"], {"text": {"type": "string"}})]}
    fields: Schema = {"type": "object", "properties": {"content": {"type": ["string", "null"]}}}
    fields["properties"]["content"] = {"anyOf": [{"type": ["string", "null"]}, _list(part)]}
    source = _object(["textDocument"], {"textDocument": _object(["text"], {"text": {"type": "string"}})})
    return {
        "Text": {"type": "string", "pattern": SOMETHING, "description": "Not blank."},
        "Query": {"anyOf": [_ref("Text"), _object(["text"], {"text": _ref("Text")})]},
        "Document": {
            "description": "A string, or an object: its text, its content, or else its fields as `key: value` lines.",
            "anyOf": [{"type": "string"}, fields],
        },
        "Documents": {
            "anyOf": [{"type": "string"}, _list(_ref("Document"), minItems=1, maxItems=MAX_DOCUMENTS)],
            "description": "Empty and blank documents rank last.",
        },
        "Source": _object(["inlineDocumentSource"], {"inlineDocumentSource": source}),
        "Count": {
            "description": "At least 1; null is absent.",
            "anyOf": [
                {"type": "null"},
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": "^[0-9]{0,18}[1-9][0-9]{0,0}$"},
            ],
        },
        "Flag": {"enum": [True, False, None, "true", "false", "1", "0", 1, 0]},
        "Name": {"type": ["string", "null"]},
    }


def _answers() -> dict[str, Schema]:
    index = {"type": "integer", "minimum": 0}
    number = {"type": "number"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    usage = _object(["prompt_tokens", "total_tokens"], {"prompt_tokens": index, "total_tokens": index})
    result = _object(
        ["index", "relevance_score"],
        {"index": index, "relevance_score": number, "document": {"type": ["object", "string"]}},
    )
    ranked = _object(
        ["id", "object", "model", "created", "results", "usage", "meta"],
        {
            "id": {"type": "string"},
            "object": {"enum": ["rerank", "list"]},
            "model": {"type": "string"},
            "created": index,
            "results": _list(result),
            "data": _list(result, description="The same as results; left out of answers past 5 MB."),
            "usage": usage,
            "meta": _object(
                ["api_version", "billed_units", "tokens", "warnings"],
                {
                    "api_version": _object(["version"], {"version": {"type": "string"}}),
                    "billed_units": _object(["search_units"], {"search_units": index}),
                    "tokens": _object(["input_tokens"], {"input_tokens": index}),
                    "warnings": _list({"type": "string"}),
                },
            ),
        },
    )
    scored = _object(["index", "score"], {"index": index, "score": number, "text": {"type": "string"}})
    return {
        "Answer": {
            "anyOf": [
                ranked,
                _list(scored, title="Text Embeddings Inference"),
                _object(
                    ["rankings"],
                    {"rankings": _list(_object(["index", "logit"], {"index": index, "logit": number}))},
                    title="NVIDIA NIM",
                ),
                _object(["object", "model", "data", "usage"], {"data": _list(scored), "usage": usage}, title="mixedbread"),
                _object(
                    ["results"],
                    {"results": _list(_object(["index", "relevanceScore"], {"index": index, "relevanceScore": probability}))},
                    title="Amazon Bedrock",
                ),
                _list(_object(["label", "score"], {"label": {"const": "LABEL_0"}, "score": number}), title="Hugging Face"),
                _object(["scores"], {"scores": _list(probability)}, title="Dify"),
            ]
        },
        "Error": _object(
            ["message", "detail", "error", "error_type"],
            {
                "message": {"type": "string"},
                "detail": {"type": "string"},
                "error": _object(
                    ["message", "type", "param", "code"],
                    {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": "integer"},
                    },
                ),
                "error_type": {"type": "string"},
            },
        ),
    }


def _service() -> dict[str, Schema]:
    model = _object(["id", "object"], {"id": {"type": "string"}, "object": {"const": "model"}})
    return {
        "Models": _object(["object", "data", "models"], {"object": {"const": "list"}, "data": _list(model)}),
        "Info": _object(
            ["model_id", "model_type", "max_input_length", "max_client_batch_size"],
            {
                "model_id": {"type": "string"},
                "model_type": _object(["reranker"], {"reranker": {"type": "object"}}),
                "max_input_length": {"type": ["integer", "null"]},
                "max_client_batch_size": {"type": "integer"},
            },
        ),
        "Health": _object(["status"], {"status": {"type": "string"}}),
        "Document": _object(["openapi", "paths"], {"openapi": {"type": "string"}, "paths": {"type": "object"}}),
    }
