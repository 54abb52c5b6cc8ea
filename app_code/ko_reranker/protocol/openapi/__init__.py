"""The OpenAPI 3.1 document at /openapi.json. Imported only when it is asked for.

Schemas are as lenient as the readers of requests are, and no more: what they allow is answered, what they forbid is refused.
"""

from __future__ import annotations

from typing import Any

from ..routes import NIM_PATH, RERANK_PATHS, SCORE_PATHS
from ..service import MAX_DOCUMENTS
from .answers import answers, facts
from .requests import EXAMPLES, requests
from .schemas import Schema, ref

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}
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
_KEY_ERRORS = {401, 403}
_BODY_ERRORS = {400, 413, 415, 422}


def document(server: str = "/", *, max_documents: int = MAX_DOCUMENTS, keys: bool = True) -> dict[str, Any]:
    """Return the OpenAPI document.

    Args:
        server: the base URL of the API.
        max_documents: a request with more is refused.
        keys: whether callers need a key, as they do in front of the Lambda and not at the container.
    """
    errors = {status: text for status, text in _ERRORS.items() if keys or status not in _KEY_ERRORS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ko-reranker",
            "version": "1",
            "description": "Ranks documents by their relevance to a query. The body decides the dialect, whatever the path: "
            "clients of Cohere, Jina, Voyage, TEI, NIM, mixedbread, vLLM and others change only URL and key. "
            "Every path is there under /infinity, too, where documents are repeated as plain strings.",
        },
        "servers": [{"url": server}],
        "paths": _paths(errors, keys),
        "components": {
            "schemas": {**requests(max_documents), **answers(), **facts()},
            "requestBodies": {"Request": {"required": True, "content": _json("Request", _examples())}},
            "responses": {str(status): _error(status, text) for status, text in errors.items()},
            **({"securitySchemes": _KEYS} if keys else {}),
        },
    }


def _paths(errors: dict[int, str], keys: bool) -> dict[str, Any]:
    def posted(path: str) -> dict[str, Any]:
        return {
            "operationId": "post" + "".join(word.capitalize() for word in path.replace("{model}", "model").split("/")),
            "summary": "Score pairs of texts." if path in SCORE_PATHS else "Rank documents.",
            "security": [{name: []} for name in _KEYS] if keys else [],
            "requestBody": {"$ref": "#/components/requestBodies/Request"},
            "responses": _responses("The answer, in the dialect of the request.", "Answer", set(errors)),
        }

    def asked(name: str, summary: str, schema: str, *, open_to_all: bool = False) -> dict[str, Any]:
        needs_key = keys and not open_to_all
        statuses = set(errors) - _BODY_ERRORS - (set() if needs_key else _KEY_ERRORS)
        return {
            "get": {
                "operationId": name,
                "summary": summary,
                "security": [{name: []} for name in _KEYS] if needs_key else [],
                "responses": _responses(summary, schema, statuses),
            }
        }

    # Slashes are part of a model's name; all of them at once are none.
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "pattern": "[^/]"}}
    return {
        **{path: {"post": posted(path)} for path in (*RERANK_PATHS, *SCORE_PATHS)},
        NIM_PATH: {"post": {**posted(NIM_PATH), "parameters": [model]}},
        "/v1/models": asked("listModels", "The model that is served.", "Models"),
        "/models": asked("listModelsToo", "The model that is served.", "Models"),
        "/info": asked("info", "The model and the limits, as Text Embeddings Inference tells them.", "Info"),
        "/health": asked("health", "Whether the service runs.", "Health", open_to_all=True),
        "/openapi.json": asked("openapi", "This document.", "OpenApi", open_to_all=True),
    }


def _responses(description: str, schema: str, errors: set[int]) -> dict[str, Any]:
    answered = {"200": {"description": description, "content": _json(schema)}}
    return {**answered, **{str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)}}


def _examples() -> dict[str, Any]:
    return {name: {"summary": summary, "value": value} for name, (summary, value) in EXAMPLES.items()}


def _json(schema: str, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"application/json": {"schema": ref(schema), **({"examples": examples} if examples else {})}}


def _error(status: int, description: str) -> Schema:
    retry = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "string"}}}
    return {"description": description, "content": _json("Error"), **({"headers": retry} if status == 429 else {})}
