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

# In the place of a document's index: a query.
QUERY = -1

SCORING_OPTIONS = ("instruction", "max_tokens_per_doc", "max_chunks_per_doc", "top_n")


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
        raw_scores: whether scores are raw, logits or what the model takes for a score itself, instead of 0 to 1.
        model: the caller's name for the model, echoed; None when it named none.
        api_version: the version in the path, echoed.
        list_style: the caller is one of those that read ``{"object": "list"}``.
        plain_documents: repeated documents are plain strings.
        label_lists: a pair is answered with the list of its labels.
        input_order_scores: the answer also has ``scores``, a text and its score for each document in their order.
        order: how results are arranged once they are chosen.
        max_tokens_per_doc: of a document at most this many tokens are read; None for the model's own limit.
        max_chunks_per_doc: a long document is read in at most this many chunks; None for the model's own limit.
        instruction: what to look for, for models that take one; None for the model's own.
        warnings: what was read otherwise than a caller might think; said in the answer where its dialect has a place for it.
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
    label_lists: bool = False
    input_order_scores: bool = False
    order: Order = "relevance"
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    instruction: str | None = None
    warnings: tuple[str, ...] = ()

    def scoring_options(self) -> dict[str, Any]:
        """Return what the request asks of the scoring itself: keyword arguments for the ranker, only those that are set."""
        options = {name: getattr(self, name) for name in SCORING_OPTIONS}
        return {name: value for name, value in options.items() if value is not None}

    def part(self, indexes: Sequence[int]) -> RerankRequest:
        """Return the request for some of the documents only."""
        queries = self.queries if len(self.queries) == 1 else tuple(self.queries[index] for index in indexes)
        return replace(self, queries=queries, documents=tuple(self.documents[index] for index in indexes))

    def without_unused_sources(self) -> RerankRequest:
        """Return the request without objects that nobody wants repeated: they may take twenty times what they took as JSON."""
        if self.return_documents or all(isinstance(document.source, str) for document in self.documents):
            return self
        return replace(self, documents=tuple(Document(document.text) for document in self.documents))

    def distinct(self) -> tuple[RerankRequest, tuple[int, ...] | None]:
        """Return the request with each pair of query and text once, and for each document its index there.

        What is scored twice may differ in its last digit, by what stands beside it: equal texts are to tie. None for the
        indexes where nothing is there twice.
        """
        indexes: dict[tuple[str, str], int] = {}
        firsts: list[int] = []
        of_documents = []
        for index, document in enumerate(self.documents):
            distinct_index = indexes.setdefault((self.query_of(index), document.text), len(firsts))
            if distinct_index == len(firsts):
                firsts.append(index)
            of_documents.append(distinct_index)
        return (self, None) if len(firsts) == len(self.documents) else (self.part(firsts), tuple(of_documents))

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
class Effort:
    """What it took to put documents into order by comparing them.

    Attributes:
        model_calls: sequences that the model computed.
        comparisons: of documents with each other; one in both orders takes two calls.
        output_tokens: tokens that the model wrote.
    """

    model_calls: int
    comparisons: int
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RerankResult:
    """What the model said about the documents of a request, in their order.

    Attributes:
        logits: float32 values, one per document; ``BLANK_LOGIT`` for a blank one. Where they are not absolute, what stands for
            a document's rank: (n - rank) / n, from rank 0 among n.
        tokens: how many tokens the model read, one count per document.
        truncated: whether the document's end was cut off, one per document.
        model: the model that answered.
        max_length: the most tokens of a query and a document together; None when unknown.
        id: the answer's id.
        created: Unix time in seconds.
        query_truncated: whether a query was so long that its own end was cut off.
        chunks: in how many chunks a document was read, one count per document; empty when none was cut into chunks.
        unrepaired: the indexes of documents, and ``QUERY`` for a query, whose text would have taken too long to undo escapes
            and dumps in; it was read as it came.
        absolute: whether the logits depend on nothing but query and document, so that parts of a request can be joined.
        instructed: whether the model reads instructions.
        raw: float32 values, one per document, of the model's own scale; empty where that is the logit.
        raw_scale: what the raw values are: ``logit``, or ``maxsim_sum``, ``maxsim_mean`` or ``rank``; see `RAW_SCALE`.
        effort: of a model that compares documents, what it took; None of all others.
        warnings: what was not as it should be, such as answers of the model that could not be read, in sentences.
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
    unrepaired: tuple[int, ...] = ()
    absolute: bool = True
    instructed: bool = False
    raw: tuple[float, ...] = ()
    raw_scale: str = "logit"
    effort: Effort | None = None
    warnings: tuple[str, ...] = ()

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that were read and written, as OpenAI's ``usage`` has them."""
        read, written = sum(self.tokens), self.effort.output_tokens if self.effort else 0
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def spread(self, indexes: Sequence[int] | None) -> RerankResult:
        """Return the result of a request from that of its ``distinct`` one: copies cost no tokens."""
        if indexes is None:
            return self
        seen: set[int] = set()
        first = []
        for index in indexes:
            first.append(index not in seen)
            seen.add(index)
        return replace(
            self,
            logits=tuple(self.logits[index] for index in indexes),
            tokens=tuple(self.tokens[index] if new else 0 for index, new in zip(indexes, first, strict=True)),
            truncated=tuple(self.truncated[index] for index in indexes),
            chunks=tuple(self.chunks[index] for index in indexes) if self.chunks else (),
            raw=tuple(self.raw[index] for index in indexes) if self.raw else (),
            unrepaired=tuple(
                [QUERY] * (QUERY in self.unrepaired)
                + [position for position, index in enumerate(indexes) if index in set(self.unrepaired)]
            ),
        )

    @classmethod
    def joined(cls, parts: Sequence[RerankResult]) -> RerankResult:
        """Return the result of a request whose documents were scored in consecutive parts.

        Raises:
            ValueError: the scores of the parts are not absolute, so that they cannot be compared.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        if not all(part.absolute for part in parts):
            raise ValueError("the parts' scores are ranks within each part")
        chunked = any(part.chunks for part in parts)
        return replace(
            first,
            logits=tuple(logit for part in parts for logit in part.logits),
            tokens=tuple(count for part in parts for count in part.tokens),
            truncated=tuple(cut for part in parts for cut in part.truncated),
            query_truncated=any(part.query_truncated for part in parts),
            chunks=tuple(n for part in parts for n in part.chunks or (1,) * len(part.logits)) if chunked else (),
            raw=tuple(value for part in parts for value in part.raw),
            unrepaired=tuple(sorted({index for start, part in _starts(parts) for index in part.moved(start)})),
        )

    def moved(self, start: int) -> Iterator[int]:
        """Yield what is unrepaired in a part whose first document is the request's at ``start``."""
        return (index if index == QUERY else start + index for index in self.unrepaired)


def _starts(parts: Sequence[RerankResult]) -> Iterator[tuple[int, RerankResult]]:
    """Yield parts with the index of each one's first document."""
    start = 0
    for part in parts:
        yield start, part
        start += len(part.logits)
