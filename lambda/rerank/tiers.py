"""What a key of a tier may send: its documents a request and a minute. Requests are API Gateway's to count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of a tier's keys; None for none.

    Attributes:
        documents_per_request: documents of one request.
        documents_per_minute: documents of all requests of one key in a minute.
    """

    documents_per_request: int | None = None
    documents_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key_id: API Gateway's id of the key; None without one.
        tier: the tier of the key.
    """

    key_id: str | None
    tier: Tier


def read_tiers(text: str) -> dict[str, Tier]:
    """Return the tiers of a JSON object, in their order.

    Raises:
        ValueError: it is none, or a limit is no whole number above zero.
    """
    tiers = {name: Tier(**limits) for name, limits in json.loads(text).items()}
    for name, tier in tiers.items():
        for limit in (tier.documents_per_request, tier.documents_per_minute):
            if limit is not None and (not isinstance(limit, int) or limit < 1):
                raise ValueError(f"tier {name} has the limit {limit!r}")
    return tiers


def caller_of(event: Mapping[str, Any], tiers: Mapping[str, Tier]) -> Caller:
    """Return who sends an API Gateway event.

    The authorizer reads the tier out of the key; a key that names none, such as the one that is made with the stack, is of the
    first tier.
    """
    context = event.get("requestContext") or {}
    key_id = (context.get("identity") or {}).get("apiKeyId")
    name = (context.get("authorizer") or {}).get("tier")
    first = next(iter(tiers.values()), Tier())
    return Caller(key_id, tiers.get(name, first) if name else first)
