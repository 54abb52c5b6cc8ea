"""From a request to its result: texts are prepared in some threads, scored in others; the event loop stays free."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..protocol import BLANK_LOGIT, Document, Effort, RerankRequest, RerankResult, busy
from ..protocol.errors import invalid
from ..rankers import Cost, UnrankableError
from .options import ServingOptions
from .preparing import Threads, begin, is_large

if TYPE_CHECKING:
    from ..engine import Ticket
    from ..rankers import Ranker, Scored

# Micro-batches that tell the speed at the start.
_MEASURED = 3
# Who asks for the health waits a few seconds itself, and a pass that hangs never ends.
_PROBE_SECONDS = 5.0
# Two documents: one alone is not compared with anything.
_PROBE = RerankRequest("logits", ("질문",), (Document("문서"), Document("다른 문서")))


class Timings(NamedTuple):
    """Seconds that a request spent in the phases of its scoring, those of all rounds together."""

    tokenise: float
    queue: float = 0.0
    compute: float = 0.0

    def plus(self, ticket: Ticket) -> Timings:
        """Return the times with those of another round."""
        return self._replace(queue=self.queue + ticket.queue_seconds, compute=self.compute + ticket.compute_seconds)


# The indexes of each ranking's documents in the request, and what became of it.
Ranked = Sequence[tuple[list[int], "Scored"]]


class Scoring:
    """Scores requests with an engine that they share.

    Args:
        ranker: the model.
        options: the name of the model in answers.
        threads: prepare the texts.
    """

    def __init__(self, ranker: Ranker, options: ServingOptions, threads: Threads) -> None:
        self._ranker = ranker
        self._model_name = options.model_name or ranker.model_id
        self._tokens_per_character = 0.0
        self._threads = threads

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests the model has not begun with, and how many tokens they have."""
        return self._ranker.engine.waiting

    async def warm_up(self) -> None:
        """Score short and longest documents, so that no caller pays for what happens only once, and the speed is known."""
        engine, longest = self._ranker.engine, "문서 " * self._ranker.max_length
        # A first pass of its shape may compile or allocate, and what it takes is no measure: by it, large requests would be
        # sent away for want of time. Full micro-batches are what tells the speed: each worker has one, then some are measured.
        full = math.ceil(engine.batch_tokens / self._ranker.max_length)
        await self._score(_warming("문서", "다른 문서"), None)
        warm = max(2, engine.workers * full)
        await self._score(_warming(*_different(longest, range(warm))), None)
        engine.forget_speed()
        await self._score(_warming(*_different(longest, range(warm, warm + _MEASURED * full))), None)

    async def score(self, request: RerankRequest, deadline: float) -> tuple[RerankResult, Timings, Cost]:
        """Score a request, and return what it took as well; cancelled, it gives up its place.

        Args:
            request: what to score.
            deadline: when nobody waits for it any more, on the clock of `time.monotonic`.

        Raises:
            ProtocolError: 429 when too much comes before it, or more than can be done before the deadline; 422 when the ranker
                cannot do what is asked.
            TimeoutError: it was not scored in time after all.
        """
        result, timings, ranked = await self._score(request, deadline)
        self._learn(request, ranked)
        return result, timings, sum((scored.cost for _, scored in ranked), Cost())

    def retry_after(self, request: RerankRequest) -> int:
        """Return in how many seconds a request is worth another try: by then what comes before it now is over."""
        return _whole(self._ranker.engine.outlook(self._expected_tokens(request)).wait_seconds)

    async def healthy(self) -> bool:
        """Return whether the model scores. It is only asked after a forward pass failed: a text may have been the cause."""
        if not self._ranker.engine.failing:
            return True
        try:
            await asyncio.wait_for(self._score(_PROBE, None), _PROBE_SECONDS)
        except Exception:  # the request that failed first has told of it in the log
            return False
        return True

    def close(self) -> None:
        """Score what was accepted, then let go of all threads."""
        self._threads.close()
        self._ranker.close()

    async def _score(self, request: RerankRequest, deadline: float | None) -> tuple[RerankResult, Timings, Ranked]:
        from ..engine import DeadlineExceeded, EngineBusy

        started, engine = time.perf_counter(), self._ranker.engine
        try:
            if deadline is not None:
                # Before anything is tokenised; what is submitted is weighed again, with its own tokens.
                engine.check(self._expected_tokens(request), deadline=deadline)
            work = partial(begin, self._ranker, request)
            indexes, rankings, unrepaired = await self._threads.run(work, large=is_large(request), deadline=deadline)
            timings = Timings(time.perf_counter() - started)
            admitted = False
            while items := rankings.items:
                ticket = engine.submit(items, deadline=deadline, admitted=admitted)
                results = await asyncio.wrap_future(ticket)
                timings = timings.plus(ticket)
                await self._threads.go_on(partial(rankings.advance, results), deadline=deadline)
                admitted = True
        except EngineBusy as error:
            raise busy(f"{error}: come again, or send fewer documents at a time", _whole(error.retry_after_seconds)) from None
        except DeadlineExceeded as error:
            raise TimeoutError(str(error)) from None
        except UnrankableError as error:
            raise invalid(error.field, str(error)) from None
        ranked = list(zip(indexes, rankings.ended(), strict=True))
        return self._result(len(request.documents), ranked, unrepaired), timings, ranked

    def _learn(self, request: RerankRequest, ranked: Ranked) -> None:
        """Learn how many tokens a character makes, from documents that were read whole and in one chunk.

        Documents whose vectors are kept make none: where most come again, requests are expected to be small.
        """
        tokens = characters = 0
        for indexes, scored in ranked:
            whole = (scored.chunks == 1) & ~scored.truncated
            tokens += int(scored.tokens[whole].sum())
            characters += sum(len(request.documents[indexes[index]].text) for index in whole.nonzero()[0].tolist())
        if characters:
            weight = 0.1 if self._tokens_per_character else 1.0
            self._tokens_per_character += (tokens / characters - self._tokens_per_character) * weight

    def _expected_tokens(self, request: RerankRequest) -> int:
        """Return about how many tokens a request has, rather too few: of a long document only the beginning counts."""
        most = self._ranker.max_length
        characters = sum(min(len(document.text), most) for document in request.documents if not document.blank)
        return int(characters * self._tokens_per_character)

    def _result(self, count: int, ranked: Ranked, unrepaired: tuple[int, ...]) -> RerankResult:
        """Put the documents of all queries into the order of the request; blank ones were never shown to the model."""
        logits, tokens, truncated, chunks = [BLANK_LOGIT] * count, [0] * count, [False] * count, [1] * count
        raw = [BLANK_LOGIT] * count
        for indexes, scored in ranked:
            for index, logit, read, cut, chunk_count in zip(
                indexes,
                scored.logits.tolist(),
                scored.tokens.tolist(),
                scored.truncated.tolist(),
                scored.chunks.tolist(),
                strict=True,
            ):
                logits[index], tokens[index], truncated[index], chunks[index] = logit, read, cut, chunk_count
            if scored.raw is not None:
                for index, value in zip(indexes, scored.raw.tolist(), strict=True):
                    raw[index] = value
        if not all(map(math.isfinite, logits)):
            raise ArithmeticError("the model gave a logit that is not finite: is it broken, or is fp16 too narrow for it?")
        return RerankResult(
            logits=tuple(logits),
            tokens=tuple(tokens),
            truncated=tuple(truncated),
            model=self._model_name,
            max_length=self._ranker.max_length,
            query_truncated=any(scored.query_truncated for _, scored in ranked),
            chunks=tuple(chunks) if max(chunks) > 1 else (),
            unrepaired=unrepaired,
            absolute=all(scored.absolute for _, scored in ranked),
            instructed=any(scored.instructed for _, scored in ranked),
            raw=tuple(raw) if self._ranker.raw_scale != "logit" else (),
            raw_scale=self._ranker.raw_scale,
            effort=None if self._ranker.absolute else _effort(ranked),
            warnings=tuple(dict.fromkeys(warning for _, scored in ranked for warning in scored.warnings)),
        )


def _effort(ranked: Ranked) -> Effort:
    cost = sum((scored.cost for _, scored in ranked), Cost())
    return Effort(cost.model_calls, cost.comparisons, cost.output_tokens)


def _warming(*texts: str) -> RerankRequest:
    # Of rankers that compare, the best one takes least.
    return RerankRequest("logits", ("질문",), tuple(map(Document, texts)), top_n=1, max_chunks_per_doc=1)


def _different(text: str, numbers: range) -> list[str]:
    """Return a text in a version for each number: equal ones would be computed once, and may be kept."""
    return [f"{number} {text}" for number in numbers]


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
