"""Which path is what, the same in the Lambda and in the container."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import ProtocolError

# path: (method, operation)
Routes = Mapping[str, tuple[str, str]]

RERANK_PATHS = ("/v2/rerank", "/v1/rerank", "/rerank", "/v1/reranks", "/reranks", "/v1/reranking", "/v1/ranking")
SCORE_PATHS = ("/score", "/v1/score")
NIM_PATH = "/v1/retrieval/{model}/reranking"
# SageMaker's own, of the container only; here, too, the rerank Lambda asks for logits and facts.
INVOCATIONS = "/invocations"

PUBLIC_ROUTES: Routes = {
    **{path: ("POST", "rerank") for path in (*RERANK_PATHS, *SCORE_PATHS, NIM_PATH)},
    "/v1/models": ("GET", "models"),
    "/models": ("GET", "models"),
    "/info": ("GET", "info"),
    "/health": ("GET", "health"),
    "/openapi.json": ("GET", "openapi"),
}
CONTAINER_ROUTES: Routes = {
    **PUBLIC_ROUTES,
    "/ping": ("GET", "health"),
    "/metrics": ("GET", "metrics"),
    INVOCATIONS: ("POST", "rerank"),
}

_SLASHES = re.compile("/{2,}")
_NIM = re.compile(r"/v1/retrieval/.+/reranking", re.DOTALL)
_INFINITY = "/infinity/"


def normalise_path(path: str) -> str:
    """Return the path without trailing or doubled slashes, which base URLs joined by hand bring along."""
    return "/" + _SLASHES.sub("/", path).strip("/")


def find_operation(routes: Routes, method: str, path: str) -> str:
    """Return the operation at a normalised path.

    Raises:
        ProtocolError: 404 or 405.
    """
    # Under /infinity lies the very same API; only documents come back as plain strings there.
    name = path[len(_INFINITY) - 1 :] if path.startswith(_INFINITY) else path
    route = routes.get(NIM_PATH if _NIM.fullmatch(name) else name)
    if route is None:
        raise ProtocolError(404, "there is nothing at this path; there is POST /v2/rerank, and GET /openapi.json tells more")
    allowed, operation = route
    if method != allowed:
        raise ProtocolError(405, f"this path takes {allowed} only", headers={"Allow": allowed})
    return operation
