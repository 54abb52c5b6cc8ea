"""API keys in request headers. Pure and small: this runs before every request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

# API Gateway's own limits for the value of a key.
SHORTEST_KEY, LONGEST_KEY = 20, 128

# Where rerank clients put their key, the first usable one counts.
_HEADERS = ("authorization", "x-api-key", "api-key")


def find_key(headers: Mapping[str, str] | None) -> str | None:
    """Return the key of a request, or None when no header holds one that could be a key.

    Args:
        headers: of the request, in any case.
    """
    lowered = {name.lower(): value for name, value in (headers or {}).items() if isinstance(value, str)}
    for name in _HEADERS:
        key = lowered.get(name, "").strip()
        if name == "authorization" and key[:7].lower() == "bearer ":
            key = key[7:].strip()
        if SHORTEST_KEY <= len(key) <= LONGEST_KEY and _printable(key):
            return key
    return None


def allow(key: str, method_arn: str) -> dict[str, Any]:
    """Return the policy that lets the request on to API Gateway's check of the key.

    It covers the whole API, so that it stays right should somebody switch the authorizer's cache on.

    Args:
        key: the caller's key.
        method_arn: ``arn:aws:execute-api:REGION:ACCOUNT:API/STAGE/METHOD/PATH``.
    """
    api, stage = method_arn.split("/")[:2]
    statement = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": f"{api}/{stage}/*"}
    return {
        # Shown in logs: names the caller without telling the key.
        "principalId": hashlib.sha256(key.encode()).hexdigest()[:16],
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "usageIdentifierKey": key,
    }


def _printable(key: str) -> bool:
    return key.isascii() and key.isprintable() and " " not in key
