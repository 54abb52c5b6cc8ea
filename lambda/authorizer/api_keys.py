"""API keys in request headers. Pure and small: this runs before every request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

# API Gateway's own limits for the value of a key.
SHORTEST_KEY, LONGEST_KEY = 20, 128

# Where rerank clients put their key. One in a header of its own is meant for us more likely than one in Authorization, where
# clients of others put their own service's, too.
KEY_HEADERS = ("x-api-key", "api-key", "authorization")
# How `ko-reranker keys create` begins a key, and how tokens of Hugging Face, OpenAI and its kin, and JSON Web Tokens begin.
OUR_PREFIX = "kor_"
_FOREIGN_PREFIXES = ("hf_", "sk-", "eyJ")
# What follows in such a key: its tier's name, and the secret. API Gateway's store knows the whole of it, so nobody gets into
# another tier by writing another name.
_OF_A_TIER = re.compile(rf"{OUR_PREFIX}([a-z][a-z0-9-]{{0,29}})_[A-Za-z0-9_-]{{20,}}")


def find_key(headers: Mapping[str, str] | None) -> str | None:
    """Return the key of a request, or None when no header holds one that could be a key.

    Of several the one that is ours by its prefix counts, else the first that isn't somebody else's by its.

    Args:
        headers: of the request, in any case.
    """
    lowered = {name.lower(): value for name, value in (headers or {}).items() if isinstance(value, str)}
    usable = []
    for name in KEY_HEADERS:
        key = lowered.get(name, "").strip()
        if name == "authorization" and key[:7].lower() == "bearer ":
            key = key[7:].strip()
        if SHORTEST_KEY <= len(key) <= LONGEST_KEY and _printable(key):
            usable.append(key)
    return min(usable, key=lambda key: (not key.startswith(OUR_PREFIX), key.startswith(_FOREIGN_PREFIXES)), default=None)


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
        # Handed on to the rerank function, which gets the key's id from API Gateway itself.
        "context": {"tier": tier_of(key)},
    }


def tier_of(key: str) -> str:
    """Return the name of the tier that is written in a key, "" for a key without one."""
    match = _OF_A_TIER.fullmatch(key)
    return match[1] if match else ""


def _printable(key: str) -> bool:
    return key.isascii() and key.isprintable() and " " not in key
