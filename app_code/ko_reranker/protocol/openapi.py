"""The OpenAPI 3.1 document at /openapi.json: the table of routes and that of dialects. Imported only when it is asked for.

Schemas are as lenient as the readers of requests are, and no more: what they allow is answered, what they forbid is refused.
"""

from __future__ import annotations

from typing import Any

from .dialects import DIALECTS
from .routes import JSON, PUBLIC_ROUTES, Route
from .schemas import RAW_SCALE, TEXT, Schema, absent, array, obj, ref, shared
from .service import MAX_DOCUMENTS

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
        "paths": {path: {route.method.lower(): _operation(route, set(errors), keys)} for path, route in PUBLIC_ROUTES.items()},
        "components": {
            "schemas": {**_requests(max_documents), **shared(max_documents), **_answers()},
            "requestBodies": {"Request": {"required": True, "content": _content("Request", examples=_examples())}},
            "responses": {str(status): _error(status, text) for status, text in errors.items()},
            **({"securitySchemes": _KEYS} if keys else {}),
        },
    }


def _operation(route: Route, errors: set[int], keys: bool) -> dict[str, Any]:
    needs_key = keys and not route.open
    statuses = errors - (set() if route.request else _BODY_ERRORS) - (set() if needs_key else _KEY_ERRORS)
    said = "The answer, in the dialect of the request." if route.request else route.summary
    answered = {"200": {"description": said, "content": _content(str(route.answer), route.content_type)}}
    refused = {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
    # Slashes are part of a model's name; all of them at once are none.
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "pattern": "[^/]"}}
    return {
        "operationId": route.name or _name(route),
        "summary": route.summary,
        "security": [{name: []} for name in _KEYS] if needs_key else [],
        **({"requestBody": {"$ref": f"#/components/requestBodies/{route.request}"}} if route.request else {}),
        "responses": answered | refused,
        **({"parameters": [model]} if "{model}" in route.path else {}),
    }


def _name(route: Route) -> str:
    words = route.path.replace("{model}", "model").split("/")
    return route.method.lower() + "".join(word.capitalize() for word in words)


def _requests(max_documents: int) -> dict[str, Schema]:
    """Return the schemas of the dialects, in the order in which they are tried; ``Request`` is the one of the body."""
    found: dict[str, Schema] = {}
    bodies = []
    before: dict[str, Schema] = {}
    for dialect in DIALECTS:
        (name, body), *others = dialect.schemas(max_documents).items()
        bodies.append(ref(name))
        found |= {name: _without(before, body), **dict(others)}
        before |= absent(*dialect.tells)
    return {"Request": {"description": "The first whose fields are there.", "anyOf": bodies}, **found}


def _without(fields: dict[str, Schema], body: Schema) -> Schema:
    """Return the schema of bodies without the fields that tell the dialects before theirs."""
    if "anyOf" in body:
        return {**body, "anyOf": [_without(fields, form) for form in body["anyOf"]]}
    return {**body, "properties": {**body["properties"], **fields}}


def _examples() -> dict[str, Any]:
    examples = [example for dialect in DIALECTS for example in dialect.examples]
    # Viewers show the first: our own body, whichever dialect is tried before it.
    examples.sort(key=lambda example: example.name != "cohere")
    return {example.name: {"summary": example.summary, "value": example.body} for example in examples}


def _answers() -> dict[str, Schema]:
    """Return the schemas of what is answered: to a ranking, to its failure, and about the service itself."""
    error = {"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": {"type": "integer"}}
    info = {
        "model_id": TEXT,
        "model_type": obj(["reranker"], {"reranker": {"type": "object"}}),
        "max_input_length": {"type": ["integer", "null"]},
        "max_client_batch_size": {"type": "integer"},
        "raw_scale": RAW_SCALE,
        "model_dtype": {"type": ["string", "null"]},
        "precision_reason": TEXT,
    }
    model = obj(["id", "object"], {"id": TEXT, "object": {"const": "model"}})
    return {
        "Answer": {"anyOf": [answer for dialect in DIALECTS for answer in dialect.answers()]},
        "Error": obj(
            ["message", "detail", "error", "error_type"],
            {"message": TEXT, "detail": TEXT, "error": obj([*error], error), "error_type": TEXT},
        ),
        "Model": model,
        "Models": obj(["object", "data", "models"], {"object": {"const": "list"}, "data": array(model)}),
        "Info": obj([*info], info),
        "Health": obj(["status"], {"status": TEXT}),
        "OpenApi": obj(["openapi", "paths"], {"openapi": TEXT, "paths": {"type": "object"}}),
    }


def _content(schema: str, content_type: str = JSON, *, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    return {content_type: {"schema": ref(schema), **({"examples": examples} if examples else {})}}


def _error(status: int, description: str) -> Schema:
    retry = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "string"}}}
    return {"description": description, "content": _content("Error"), **({"headers": retry} if status == 429 else {})}
