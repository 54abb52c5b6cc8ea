"""What goes over the wire, read and written once for the sync and the async client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ServerError, StatusError, error_for

Document = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One result.

    Attributes:
        index: the document's place in the request.
        score: its relevance, 0 to 1 (a logit with ``raw_scores``); comparable across requests.
        document: as it was given.
    """

    index: int
    score: float
    document: Document


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """The results of a request, in the order asked for.

    Attributes:
        results: the same as a tuple.
        model: the model that answered.
        tokens: how many tokens it read.
        warnings: such as truncated documents.
        request_id: what the operator finds the request by.
    """

    results: tuple[RankedDocument, ...]
    model: str
    tokens: int
    warnings: tuple[str, ...]
    request_id: str

    def __getitem__(self, place: Any) -> Any:
        return self.results[place]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self.results)


def write_request(query: str, documents: Sequence[Document], options: Mapping[str, Any]) -> bytes:
    """Return the body of a request; options that are None are left out."""
    body = {"query": query, "documents": list(documents), **{key: value for key, value in options.items() if value is not None}}
    # Korean unescaped: half the bytes.
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def read_answer(body: bytes, documents: Sequence[Document]) -> Ranking:
    """Return the ranking that an answer holds.

    Raises:
        ServerError: when it holds none, as a sign-in page that a proxy answers with doesn't.
    """
    try:
        answer = json.loads(body)
        results = tuple(
            RankedDocument(item["index"], item["relevance_score"], documents[item["index"]]) for item in answer["results"]
        )
        tokens = answer["usage"]["total_tokens"]
        return Ranking(results, answer["model"], tokens, tuple(answer["meta"]["warnings"]), answer["id"])
    except (ValueError, LookupError, TypeError):
        raise ServerError(200, "the answer is no ranking: does base_url name the rerank API?") from None


def read_error(status: int, body: bytes, request_id: str | None) -> StatusError:
    """Return the error that an answer holds, SageMaker's wrapping of the container's own taken off."""
    said = _object(body)
    if "OriginalStatusCode" in said:
        status = said["OriginalStatusCode"] or 503
        said = _object(str(said.get("OriginalMessage") or "")) or {"message": "the model failed"}
    error = said.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    message = said.get("message") or said.get("Message") or f"the service answered {status}"
    return error_for(status, str(message), param, request_id)


def _object(body: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
