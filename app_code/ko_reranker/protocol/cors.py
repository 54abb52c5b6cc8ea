"""Cross-origin requests: which web pages may call the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# In small letters, as browsers send it.
_ORIGIN = re.compile(r"\*|https?://[a-z0-9.-]+(:\d{1,5})?")
_METHODS = "GET, HEAD, POST"
# Where keys and bodies go; `*` would not cover Authorization.
_HEADERS = "Authorization, Content-Type, Content-Encoding, X-Api-Key, Api-Key, X-Request-Id"
_MAX_AGE_SECONDS = 3600


def is_origin(text: str) -> bool:
    """Return whether a text is what a setting may hold: an origin such as ``https://app.example.com``, or ``*`` for all."""
    return _ORIGIN.fullmatch(text) is not None


def cors_headers(origin: str | None, allowed: Sequence[str]) -> dict[str, str]:
    """Return the headers of an answer that let the page of an origin read it; none where nothing is allowed.

    Args:
        origin: the request's header, or None.
        allowed: origins, or ``*`` for all.
    """
    if not allowed:
        return {}
    vary = {} if "*" in allowed else {"Vary": "Origin"}
    if origin is None or not ("*" in allowed or origin in allowed):
        return vary
    told = "*" if "*" in allowed else origin
    return {"Access-Control-Allow-Origin": told, "Access-Control-Expose-Headers": "*", **vary}


def preflight_headers(method: str, headers: Mapping[str, str], allowed: Sequence[str]) -> dict[str, str] | None:
    """Return the headers of the answer to a preflight request, or None when a request is none, or nothing is allowed.

    Args:
        method: the request's.
        headers: the request's, their names in lower case.
        allowed: origins, or ``*`` for all.
    """
    if not allowed or method != "OPTIONS" or "origin" not in headers or "access-control-request-method" not in headers:
        return None
    answer = cors_headers(headers["origin"], allowed)
    if "Access-Control-Allow-Origin" not in answer:
        return answer
    del answer["Access-Control-Expose-Headers"]
    return answer | {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _HEADERS,
        "Access-Control-Max-Age": str(_MAX_AGE_SECONDS),
    }
