"""Wire shapes to one canonical request and back: pure standard library, shared by the rerank Lambda and the container.

body -> decode_body -> parse_request -> RerankRequest -> (a ranker) -> RerankResult -> render_response -> encode_body
"""

from __future__ import annotations

from typing import Any

from .canonical import BLANK_LOGIT, QUERY, Document, Effort, RerankRequest, RerankResult
from .cors import cors_headers, is_origin, preflight_headers
from .deadlines import TIMEOUT_HEADER, read_timeout, write_timeout
from .dialects import BY_NAME, DIALECTS, LOGITS
from .errors import ProtocolError, busy, invalid
from .fields import kind
from .routes import CONTAINER_ROUTES, INVOCATIONS, OPEN_OPERATIONS, PUBLIC_ROUTES, find_operation, normalise_path
from .service import FACTS_REQUEST, MAX_DOCUMENTS, ServiceFacts, asks_for_facts, check_documents, describe
from .wire import MAX_BODY_BYTES, check_content_type, decode_body, decompress_body, encode_body, is_compressed

__all__ = [
    "BLANK_LOGIT",
    "CONTAINER_ROUTES",
    "FACTS_REQUEST",
    "MAX_BODY_BYTES",
    "MAX_DOCUMENTS",
    "OPEN_OPERATIONS",
    "PUBLIC_ROUTES",
    "QUERY",
    "TIMEOUT_HEADER",
    "Document",
    "Effort",
    "ProtocolError",
    "RerankRequest",
    "RerankResult",
    "ServiceFacts",
    "asks_for_facts",
    "busy",
    "check_content_type",
    "cors_headers",
    "decode_body",
    "decompress_body",
    "describe",
    "encode_body",
    "find_operation",
    "is_compressed",
    "is_origin",
    "normalise_path",
    "parse_request",
    "preflight_headers",
    "read_timeout",
    "render_response",
    "write_timeout",
]


def parse_request(body: Any, path: str, max_documents: int = MAX_DOCUMENTS) -> RerankRequest:
    """Return the canonical request of a decoded JSON body: the body decides the dialect, the path only narrows it.

    Args:
        body: any JSON value.
        path: the normalised path that it was sent to.
        max_documents: a request with more is refused, before any of them is looked at.

    Raises:
        ProtocolError: whatever is wrong with the body.
    """
    if not isinstance(body, dict):
        raise invalid("body", f"must be a JSON object, is {kind(body)}")
    present = {name: value for name, value in body.items() if value is not None}
    for dialect in (LOGITS, *DIALECTS) if path == INVOCATIONS else DIALECTS:
        if dialect.takes(present):
            for name in dialect.lists:
                check_documents(name, _field(present, name), max_documents)
            return dialect.parse(present, path).without_unused_sources()
    raise invalid("documents", 'is missing; send {"query", "documents"}, and GET /openapi.json tells the other shapes')


def _field(body: Any, name: str) -> Any:
    for part in name.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return body


def render_response(request: RerankRequest, result: RerankResult) -> Any:
    """Return the answer's JSON value in the dialect of the request."""
    return BY_NAME[request.dialect].render(request, result)
