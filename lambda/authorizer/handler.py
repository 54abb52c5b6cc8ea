"""Take the API key out of whichever header the client puts it in; API Gateway's own key store decides about it."""

from __future__ import annotations

from typing import Any

from api_keys import allow, find_key


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    key = find_key(event.get("headers"))
    if key is None:
        raise Exception("Unauthorized")  # the very word that API Gateway turns into a 401
    return allow(key, event["methodArn"])
