"""Asking a stage's rerank API, and the curl line that does the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ko_reranker.operations.errors import OperationError

if TYPE_CHECKING:
    from ko_reranker.client import Ranking


def ask(base_url: str, api_key: str, query: str, documents: Sequence[str | Mapping[str, Any]], **options: Any) -> Ranking:
    """Return the ranking of documents by a stage's API; options are those of ``RerankClient.rerank``.

    Raises:
        OperationError: with the API's own message.
    """
    try:
        from ko_reranker.client import RerankClient, RerankError
    except ModuleNotFoundError:
        raise OperationError("this command needs httpx: pip install 'ko-reranker[client]'") from None
    try:
        with RerankClient(base_url, api_key) as client:
            return client.rerank(query, documents, **options)
    except RerankError as error:
        raise OperationError(f"the API did not answer: {error}") from None


def rerank(base_url: str, api_key: str, query: str, documents: Sequence[str], top_n: int | None = None) -> list[dict[str, Any]]:
    """Return results, the most relevant first: ``index`` and ``relevance_score`` (0 to 1).

    Raises:
        OperationError: with the API's own message.
    """
    ranking = ask(base_url, api_key, query, documents, top_n=top_n)
    return [{"index": item.index, "relevance_score": item.score} for item in ranking]


def curl(base_url: str, api_key: str, query: str, documents: Sequence[str]) -> str:
    """Return a line to paste into a shell."""
    body = json.dumps({"query": query, "documents": list(documents)}, ensure_ascii=False)
    return (
        f"curl -s {shlex.quote(base_url + '/v2/rerank')} \\\n"
        f"  -H {shlex.quote(f'Authorization: Bearer {api_key}')} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )
