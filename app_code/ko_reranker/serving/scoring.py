"""From a request to its result: texts are tokenised in one pool of threads, scored in another; the event loop stays free."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..protocol import BLANK_LOGIT, Document, RerankRequest, RerankResult, busy
from ..text import normalise
from .options import ServingOptions

if TYPE_CHECKING:
    from ..rankers.cross_encoder import CrossEncoder
    from ..rankers.interface import Scored
    from ..rankers.pairs import EncodedDocuments

# Tokenising is parallel by itself; a second thread keeps small requests from waiting for a huge one's texts.
_TOKENISING_THREADS = 2
_PROBE = RerankRequest("logits", ("질문",), (Document("문서"),))


class Timings(NamedTuple):
    """Seconds that a request spent in the phases of its scoring."""

    tokenise: float
    queue: float
    compute: float


class Scoring:
    """Scores requests with an engine that they share.

    Args:
        ranker: the model.
        options: the name of the model in answers, and how long a request may take.
    """

    def __init__(self, ranker: CrossEncoder, options: ServingOptions) -> None:
        self._ranker = ranker
        self._model_name = options.model_name or ranker.model_id
        self._timeout = options.request_timeout_seconds
        self._tokenising = ThreadPoolExecutor(max_workers=_TOKENISING_THREADS, thread_name_prefix="tokenising")

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests the model has not begun with, and how many tokens they have."""
        return self._ranker.engine.waiting

    async def warm_up(self) -> None:
        """Score short and longest documents, so that no caller pays for what happens only once."""
        longest = "문서 " * self._ranker.max_length
        texts = ("문서", *[longest] * (2 * (os.cpu_count() or 1)))
        # Its time does not count: a first pass may compile.
        await self._score(RerankRequest("logits", ("질문",), tuple(map(Document, texts)), max_chunks_per_doc=1), None)

    async def score(self, request: RerankRequest) -> tuple[RerankResult, Timings]:
        """Score a request; cancelled, it gives up its place.

        Raises:
            ProtocolError: 429 when too much is waiting, or more than can be done within the request's time.
        """
        return await self._score(request, time.monotonic() + self._timeout)

    async def healthy(self) -> bool:
        """Return whether the model scores. It is only asked after a forward pass failed: a text may have been the cause."""
        if not self._ranker.engine.failing:
            return True
        try:
            await self._score(_PROBE, None)
        except Exception:  # the request that failed first has told of it in the log
            return False
        return True

    def close(self) -> None:
        """Score what was accepted, then let go of all threads."""
        self._tokenising.shutdown(wait=True)
        self._ranker.close()

    async def _score(self, request: RerankRequest, deadline: float | None) -> tuple[RerankResult, Timings]:
        from ..engine import DeadlineExceeded, EngineBusy

        started = time.perf_counter()
        if deadline is not None:
            self._refuse_if_full()
        encoded = await asyncio.get_running_loop().run_in_executor(self._tokenising, _encode, self._ranker, request)
        tokenised = time.perf_counter()
        try:
            ticket = self._ranker.engine.submit([pair for part in encoded for pair in part[1].pairs], deadline=deadline)
            logits = await asyncio.wrap_future(ticket)
        except EngineBusy as error:
            raise busy(f"{error}: come again", max(1, math.ceil(error.retry_after_seconds))) from None
        except DeadlineExceeded:
            message = f"not scored within {self._timeout:g} seconds: come again, or send fewer documents at a time"
            raise busy(message, max(1, math.ceil(self._ranker.engine.wait_seconds()))) from None
        parts, place = [], 0
        for indexes, part in encoded:
            parts.append((indexes, self._ranker.finish(part, logits[place : place + len(part.pairs)])))
            place += len(part.pairs)
        result = self._result(len(request.documents), parts)
        return result, Timings(tokenised - started, ticket.queue_seconds, ticket.compute_seconds)

    def _refuse_if_full(self) -> None:
        """Refuse before anything is tokenised; what is submitted is weighed again, with its own tokens."""
        engine = self._ranker.engine
        tokens, seconds = engine.waiting[1], engine.wait_seconds()
        if seconds > self._timeout or (engine.max_queue_tokens is not None and tokens >= engine.max_queue_tokens):
            raise busy(f"{tokens} tokens are waiting for the model: come again", max(1, math.ceil(seconds)))

    def _result(self, count: int, parts: Sequence[tuple[list[int], Scored]]) -> RerankResult:
        """Put the documents of all queries into the order of the request; blank ones were never shown to the model."""
        logits, tokens, truncated, chunks = [BLANK_LOGIT] * count, [0] * count, [False] * count, [1] * count
        for indexes, scored in parts:
            for index, logit, read, cut, pieces in zip(
                indexes,
                scored.logits.tolist(),
                scored.tokens.tolist(),
                scored.truncated.tolist(),
                scored.chunks.tolist(),
                strict=True,
            ):
                logits[index], tokens[index], truncated[index], chunks[index] = logit, read, cut, pieces
        if not all(map(math.isfinite, logits)):
            raise ArithmeticError("the model gave a logit that is not finite: is it broken, or is fp16 too narrow for it?")
        return RerankResult(
            logits=tuple(logits),
            tokens=tuple(tokens),
            truncated=tuple(truncated),
            model=self._model_name,
            max_length=self._ranker.max_length,
            query_truncated=any(scored.query_truncated for _, scored in parts),
            chunks=tuple(chunks) if max(chunks) > 1 else (),
        )


def _encode(ranker: CrossEncoder, request: RerankRequest) -> list[tuple[list[int], EncodedDocuments]]:
    """Return each query's documents, tokenised, with their places in the request; blank documents are in none."""
    documents = tuple(Document(normalise(document.text)) for document in request.documents)
    request = replace(request, queries=tuple(map(normalise, request.queries)), documents=documents)
    limits = {"max_tokens_per_doc": request.max_tokens_per_doc, "max_chunks_per_doc": request.max_chunks_per_doc}
    return [
        (indexes, ranker.prepare(query, [documents[index].text for index in indexes], **limits))
        for query, indexes in request.scorable()
    ]
