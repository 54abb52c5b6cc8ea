"""Which path is what, the same in the Lambda and in the container."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import ProtocolError

# path: (method, operation)
Routes = Mapping[str, tuple[str, str]]

PUBLIC_ROUTES: Routes = {
    "/v2/rerank": ("POST", "rerank"),
    "/v1/rerank": ("POST", "rerank"),
    "/rerank": ("POST", "rerank"),
    "/health": ("GET", "health"),
}
CONTAINER_ROUTES: Routes = {
    **PUBLIC_ROUTES,
    "/ping": ("GET", "ping"),
    "/invocations": ("POST", "rerank"),
}

_SLASHES = re.compile("/{2,}")


def normalise_path(path: str) -> str:
    """Return the path without trailing or doubled slashes, which base URLs joined by hand bring along."""
    return "/" + _SLASHES.sub("/", path).strip("/")


def find_operation(routes: Routes, method: str, path: str) -> str:
    """Return the operation at a normalised path.

    Raises:
        ProtocolError: 404 or 405.
    """
    route = routes.get(path)
    if route is None:
        known = ", ".join(f"{method} {path}" for path, (method, _) in PUBLIC_ROUTES.items())
        raise ProtocolError(404, f"there is nothing at this path; there is {known}")
    allowed, operation = route
    if method != allowed:
        raise ProtocolError(405, f"{path} takes {allowed} only", headers={"Allow": allowed})
    return operation
