"""Everything that can be set about serving, in one object."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from ..protocol import MAX_DOCUMENTS


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How the app behaves; what the model does is the ranker's.

    Attributes:
        model_name: the model's name in answers that the caller did not name it in; None takes the ranker's.
        max_body_bytes: a longer request body is refused with 413.
        max_documents: more documents in one request are refused with 422.
        max_connections: connections at the same time; past it the one that has waited longest for its client is closed.
        max_waiting: requests that may wait beside the one being scored; past it the caller gets 429 and comes again.
        max_waiting_bytes: bodies of all requests that are not answered yet, together; past it the caller gets 429, too.
        request_timeout_seconds: a request that has no scores this long after its arrival gets 429 and gives up its place.
        cors_origins: web pages of these origins may call the server from a browser, ``*`` for all; none by default.
        drain_seconds: after SIGTERM, how long requests in flight may take before they are cut off.
        keys: one of them comes with every request; none lets in everybody.
        open_health: whether /ping and /health need no key.
        open_metrics: whether /metrics needs no key.
        tls: the certificate and its key, for HTTPS; None for HTTP.
    """

    model_name: str | None = None
    max_body_bytes: int = 25_000_000
    max_documents: int = MAX_DOCUMENTS
    max_connections: int = 1024
    max_waiting: int = 256
    max_waiting_bytes: int = 200_000_000
    request_timeout_seconds: float = 60
    cors_origins: tuple[str, ...] = ()
    drain_seconds: int = 25
    keys: tuple[str, ...] = field(default=(), repr=False)
    open_health: bool = True
    open_metrics: bool = False
    tls: ssl.SSLContext | None = field(default=None, compare=False)
