"""The one thread that runs the model, so that the event loop stays free to accept, parse and answer."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..protocol import BLANK_LOGIT, Document, RerankRequest, RerankResult
from ..text import normalise
from .options import ServingOptions

if TYPE_CHECKING:
    from ..rankers import Ranker


class Timings(NamedTuple):
    """Seconds that a request spent in the phases of its scoring."""

    tokenise: float
    queue: float
    compute: float


def score(ranker: Ranker, request: RerankRequest, model_name: str) -> RerankResult:
    """Return the logits of a request's documents, in their order; blank ones never reach the model."""
    documents = tuple(Document(normalise(document.text)) for document in request.documents)
    request = replace(request, queries=tuple(map(normalise, request.queries)), documents=documents)
    count = len(request.documents)
    logits, tokens, truncated = [BLANK_LOGIT] * count, [0] * count, [False] * count
    query_truncated = False
    for query, indexes in request.scorable():
        scored = ranker.score_detailed(query, [request.documents[index].text for index in indexes])
        query_truncated |= bool(scored.query_truncated)
        for place, index in enumerate(indexes):
            logits[index] = float(scored.logits[place])
            tokens[index] = int(scored.tokens[place])
            truncated[index] = bool(scored.truncated[place])
    if not all(map(math.isfinite, logits)):
        raise ArithmeticError("the model gave a logit that is not finite: is it broken, or is fp16 too narrow for it?")
    return RerankResult(
        logits=tuple(logits),
        tokens=tuple(tokens),
        truncated=tuple(truncated),
        model=model_name,
        max_length=ranker.max_length,
        query_truncated=query_truncated,
    )


class Scoring:
    """Scores requests one after the other in a thread of its own.

    Args:
        ranker: the model.
        options: the name of the model in answers.
    """

    def __init__(self, ranker: Ranker, options: ServingOptions) -> None:
        self._ranker = ranker
        self._model_name = options.model_name or ranker.model_id
        self.waiting = (0, 0)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    async def warm_up(self) -> None:
        """Score a short and a longest document, so that no caller pays for what happens only once."""
        longest = "문서 " * self._ranker.max_length
        await self.score(RerankRequest("logits", ("질문",), (Document("문서"), Document(longest))))

    async def score(self, request: RerankRequest) -> tuple[RerankResult, Timings]:
        """Score a request when its turn comes; cancelled before that, it is never scored."""
        asked = time.perf_counter()
        self.waiting = (self.waiting[0] + 1, 0)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._score, request, asked)
        finally:
            self.waiting = (self.waiting[0] - 1, 0)

    def close(self) -> None:
        """Let go of the thread once what it has accepted is scored."""
        self._executor.shutdown(wait=True)

    def _score(self, request: RerankRequest, asked: float) -> tuple[RerankResult, Timings]:
        started = time.perf_counter()
        result = score(self._ranker, request, self._model_name)
        return result, Timings(0.0, started - asked, time.perf_counter() - started)
