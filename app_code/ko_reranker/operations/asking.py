"""Asking a stage's rerank API, and the curl line that does the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ko_reranker.operations.errors import OperationError

_TIMEOUT_SECONDS = 30


def rerank(base_url: str, api_key: str, query: str, documents: Sequence[str], top_n: int | None = None) -> list[dict[str, Any]]:
    """Return ``results`` of POST /v2/rerank, the most relevant first: ``index`` and ``relevance_score`` (0 to 1).

    Raises:
        OperationError: with the API's own message.
    """
    body: dict[str, Any] = {"query": query, "documents": list(documents)}
    if top_n is not None:
        body["top_n"] = top_n
    request = Request(  # noqa: S310 - the URL is the stage's own
        f"{base_url}/v2/rerank",
        data=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read())["results"]
    except HTTPError as error:
        raise OperationError(f"the API answered {error.code}: {_message(error.read())}") from None
    except URLError as error:
        raise OperationError(f"the API at {base_url} can't be reached: {error.reason}") from None


def curl(base_url: str, api_key: str, query: str, documents: Sequence[str]) -> str:
    """Return a line to paste into a shell."""
    body = json.dumps({"query": query, "documents": list(documents)}, ensure_ascii=False)
    return (
        f"curl -s {shlex.quote(base_url + '/v2/rerank')} \\\n"
        f"  -H {shlex.quote(f'Authorization: Bearer {api_key}')} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def _message(body: bytes) -> str:
    try:
        return json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
