"""What every dialect is translated into and rendered from: one request, one result."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .wire import is_blank

Order = Literal["relevance", "lost_in_the_middle"]

# The logit of a blank document. It is never shown to the model, ranks below whatever the model says, and its sigmoid is 0.
BLANK_LOGIT = -100.0

SCORING_OPTIONS = ("max_tokens_per_doc", "max_chunks_per_doc", "instruction")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a request.

    Attributes:
        text: what is scored; free of NUL and lone surrogates.
        source: the caller's own string or object, echoed on request.
    """

    text: str
    source: str | Mapping[str, Any] = ""

    @property
    def blank(self) -> bool:
        """Whether there is nothing to score."""
        return is_blank(self.text)


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A request, whichever dialect it came in.

    Attributes:
        dialect: the name of the dialect that renders the answer.
        queries: one query for all documents, or one for each.
        documents: at least one.
        top_n: how many results are wanted; None for all.
        return_documents: whether the answer repeats the documents.
        raw_scores: whether scores are logits instead of their sigmoids.
        model: the caller's name for the model, echoed; None when it named none.
        api_version: the version in the path, echoed.
        list_style: the caller is one of those that read ``{"object": "list"}``.
        plain_documents: repeated documents are plain strings.
        order: how results are arranged once they are chosen.
        max_tokens_per_doc: of a document at most this many tokens are read; None for the model's own limit.
        max_chunks_per_doc: a long document is read in at most this many pieces; None for the model's own limit.
        instruction: what to look for, for models that take one; None for the model's own.
    """

    dialect: str
    queries: tuple[str, ...]
    documents: tuple[Document, ...]
    top_n: int | None = None
    return_documents: bool = False
    raw_scores: bool = False
    model: str | None = None
    api_version: str = "2"
    list_style: bool = False
    plain_documents: bool = False
    order: Order = "relevance"
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    instruction: str | None = None

    def scoring_options(self) -> dict[str, Any]:
        """Return what the request asks of the scoring itself: keyword arguments for the ranker, only those that are set."""
        options = {name: getattr(self, name) for name in SCORING_OPTIONS}
        return {name: value for name, value in options.items() if value is not None}

    def part(self, indexes: Sequence[int]) -> RerankRequest:
        """Return the request for some of the documents only."""
        queries = self.queries if len(self.queries) == 1 else tuple(self.queries[index] for index in indexes)
        return replace(self, queries=queries, documents=tuple(self.documents[index] for index in indexes))

    def query_of(self, index: int) -> str:
        """Return the query that the document at ``index`` is scored against."""
        return self.queries[0] if len(self.queries) == 1 else self.queries[index]

    def scorable(self) -> Iterator[tuple[str, list[int]]]:
        """Yield each distinct query with the indexes of its documents that are not blank."""
        groups: dict[str, list[int]] = {}
        for index, document in enumerate(self.documents):
            if not document.blank:
                groups.setdefault(self.query_of(index), []).append(index)
        yield from groups.items()


@dataclass(frozen=True, slots=True)
class RerankResult:
    """What the model said about the documents of a request, in their order.

    Attributes:
        logits: float32 values, one per document; ``BLANK_LOGIT`` for a blank one.
        tokens: how many tokens the model read, one count per document.
        truncated: whether the document's end was cut off, one per document.
        model: the model that answered.
        max_length: the most tokens of a query and a document together; None when unknown.
        id: the answer's id.
        created: Unix time in seconds.
        query_truncated: whether a query was so long that its own end was cut off.
        chunks: in how many pieces a document was read, one count per document; empty when none was cut into pieces.
    """

    logits: tuple[float, ...]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    model: str
    max_length: int | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: int = field(default_factory=lambda: int(time.time()))
    query_truncated: bool = False
    chunks: tuple[int, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[RerankResult]) -> RerankResult:
        """Return the result of a request whose documents were scored in consecutive parts."""
        first = parts[0]
        if len(parts) == 1:
            return first
        chunked = any(part.chunks for part in parts)
        return replace(
            first,
            logits=tuple(logit for part in parts for logit in part.logits),
            tokens=tuple(count for part in parts for count in part.tokens),
            truncated=tuple(cut for part in parts for cut in part.truncated),
            query_truncated=any(part.query_truncated for part in parts),
            chunks=tuple(n for part in parts for n in part.chunks or (1,) * len(part.logits)) if chunked else (),
        )
