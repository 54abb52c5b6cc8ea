"""The table of the API: which path is what, the same in the Lambda, in the container and in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from .errors import ProtocolError

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    Attributes:
        path: normalised; ``{model}`` is one segment or more.
        method: the one it takes; a GET is answered to HEAD, too.
        operation: what is done there. Each app has a handler for every operation of its routes.
        name: OpenAPI's ``operationId``; of what has none, the method and the words of the path.
        summary: what it does, in a sentence.
        request: the schema of its body; None where it takes none. Its examples are the dialects'.
        answer: the schema of its answer; None where the OpenAPI document doesn't say.
        content_type: of its answer.
        open: whether anybody may ask, without a key.
        public: whether the API on AWS has it, too; else the container only.
    """

    path: str
    method: str
    operation: str
    name: str = ""
    summary: str = ""
    request: str | None = None
    answer: str | None = None
    content_type: str = JSON
    open: bool = False
    public: bool = True


NIM_PATH = "/v1/retrieval/{model}/reranking"
MODEL_PATH = "/v1/models/{model}"
# SageMaker's own, of the container only; here, too, the rerank Lambda asks for logits and facts.
INVOCATIONS = "/invocations"


def _rerank(path: str, summary: str = "Rank documents.", *, public: bool = True) -> Route:
    return Route(path, "POST", "rerank", summary=summary, request="Request", answer="Answer", public=public)


def _get(path: str, operation: str, name: str, summary: str, answer: str, *, open: bool = False) -> Route:
    return Route(path, "GET", operation, name, summary, answer=answer, open=open)


def _container_get(path: str, operation: str, content_type: str = JSON) -> Route:
    return Route(path, "GET", operation, content_type=content_type, public=False)


ROUTES = (
    _rerank("/v2/rerank"),
    _rerank("/v1/rerank"),
    _rerank("/rerank"),
    _rerank("/v1/reranks"),
    _rerank("/reranks"),
    _rerank("/v1/reranking"),
    _rerank("/reranking"),  # llama.cpp
    _rerank("/v1/ranking"),
    _rerank("/predict"),  # Text Embeddings Inference, of pairs
    _rerank("/api/rerank"),  # Dify's Ollama plugin
    _rerank("/huggingface/rerank"),  # Elasticsearch's hugging_face service, which reads a bare list
    _rerank("/api/v1/services/rerank/text-rerank/text-rerank"),  # DashScope
    _rerank("/compatible-api/v1/reranks"),  # DashScope again, with Cohere's body
    _rerank("/score", "Score pairs of texts."),
    _rerank("/v1/score", "Score pairs of texts."),
    _rerank(NIM_PATH),
    _get("/v1/models", "models", "listModels", "The model that is served.", "Models"),
    _get("/models", "models", "listModelsToo", "The model that is served.", "Models"),
    _get(MODEL_PATH, "model", "getModel", "The model that is served, asked for by its name.", "Model"),
    _get("/info", "info", "info", "The model and the limits, as Text Embeddings Inference tells them.", "Info"),
    _get("/health", "health", "health", "Whether the service runs.", "Health", open=True),
    _get("/openapi.json", "openapi", "openapi", "This document.", "OpenApi", open=True),
    _rerank(INVOCATIONS, public=False),
    _container_get("/ping", "health"),
    _container_get("/metrics", "metrics", "text/plain"),
    _container_get("/meta", "info"),  # Weaviate asks for this and the next two before it sends anything
    _container_get("/.well-known/live", "ready"),
    _container_get("/.well-known/ready", "ready"),
)

Routes = Mapping[str, Route]
CONTAINER_ROUTES: Routes = {route.path: route for route in ROUTES}
PUBLIC_ROUTES: Routes = {route.path: route for route in ROUTES if route.public}
# What anybody may ask without a key.
OPEN_OPERATIONS = frozenset(route.operation for route in ROUTES if route.open)

_SLASHES = re.compile("/{2,}")
_AUTHORITY = re.compile("https?://[^/]*", re.IGNORECASE)
# A base URL that ends in a version, joined with a path that begins with one: the last one is meant.
_VERSIONS = re.compile(r"^(/infinity)?(?:/v\d)+(?=/v\d/)")
_NIM = re.compile(r"/v1/retrieval/.+/reranking", re.DOTALL)
_MODEL = re.compile(r"(?:/v1)?/models/(.+)", re.DOTALL)
_INFINITY = "/infinity/"


def normalise_path(path: str) -> str:
    """Return the path as the routes write it, whatever base URLs joined by hand make of it.

    Slashes at the end or doubled go, of versions one after the other the last one stays, and of a whole URL, which proxies
    send (RFC 9112, absolute-form), its path.
    """
    path = "/" + _SLASHES.sub("/", _AUTHORITY.sub("", path, count=1) if _AUTHORITY.match(path) else path).strip("/")
    return _VERSIONS.sub(lambda match: match[1] or "", path)


def find_operation(routes: Routes, method: str, path: str) -> str:
    """Return the operation at a normalised path; HEAD is answered wherever GET is.

    Raises:
        ProtocolError: 404 or 405.
    """
    route = routes.get(_pattern(_without_infinity(path)))
    if route is None:
        raise ProtocolError(404, "there is nothing at this path; there is POST /v2/rerank, and GET /openapi.json tells more")
    if method != route.method and (method, route.method) != ("HEAD", "GET"):
        takes = "GET, HEAD" if route.method == "GET" else route.method
        raise ProtocolError(405, f"this path takes {route.method} only", headers={"Allow": takes})
    return route.operation


def asked_model(path: str) -> str | None:
    """Return the name of the model that a normalised path asks about, or None when it asks about none."""
    match = _MODEL.fullmatch(_without_infinity(path))
    return match and unquote(match[1])


def _pattern(path: str) -> str:
    if _NIM.fullmatch(path):
        return NIM_PATH
    return MODEL_PATH if _MODEL.fullmatch(path) else path


def _without_infinity(path: str) -> str:
    # Under /infinity lies the very same API; only documents come back as plain strings there.
    return path[len(_INFINITY) - 1 :] if path.startswith(_INFINITY) else path
