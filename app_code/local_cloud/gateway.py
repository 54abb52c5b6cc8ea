"""The rerank API at a root path: ``http://127.0.0.1:8000/v2/rerank``.

On AWS a custom domain hides API Gateway's stage; clients that replace the path of their base URL rely on that. Here a small
ASGI application does the same: whatever the path, it is handed to the deployed REST API's stage in the same process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from local_cloud.settings import LocalSettings

NOTHING_DEPLOYED = (
    "the local cloud runs, but no rerank API is deployed in it yet: run `ko-reranker local deploy` "
    "(or `make run`, which deploys, trains and answers)"
)


class Gateway:
    """ASGI application that forwards every request to the deployed REST API."""

    def __init__(self, application: Any, settings: LocalSettings) -> None:
        self._application = application
        self._settings = settings

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            stage = deployed_stage(self._settings)
            if stage is None:
                await _answer(send, 503, NOTHING_DEPLOYED)
            else:
                await self._application(_rewritten(scope, *stage), receive, send)


def deployed_stage(settings: LocalSettings) -> tuple[str, str] | None:
    """Return (API id, stage name) of the oldest deployed REST API with the configured name, or None."""
    from ministack.services import apigateway_v1

    candidates: list[tuple[float, str, str]] = []
    for (account, region, api_id), api in apigateway_v1._rest_apis.all_items():
        if (account, region) != (settings.account_id, settings.region):
            continue
        if api.get("name", "").startswith(settings.api_name_prefix):
            stages = apigateway_v1._stages_v1.get_scoped(account, region, api_id, {})
            candidates.extend((api.get("createdDate", 0), api_id, stage) for stage in stages)
    if not candidates:
        return None
    _, api, stage = min(candidates)
    return api, stage


def _rewritten(scope: Mapping[str, Any], api_id: str, stage: str) -> dict[str, Any]:
    prefix = f"/_aws/execute-api/{api_id}/{stage}"
    raw_path = scope.get("raw_path") or scope["path"].encode()
    return {**scope, "path": prefix + scope["path"], "raw_path": prefix.encode() + raw_path, "scheme": "https"}


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _answer(send: Any, status: int, message: str) -> None:
    """Send the error body that every client of the API can read."""
    error = {"message": message, "type": "unavailable", "param": None, "code": status}
    body = {"message": message, "detail": message, "error": error, "error_type": "unavailable"}
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
