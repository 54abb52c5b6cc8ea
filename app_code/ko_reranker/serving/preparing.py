"""What is done to a request away from the event loop: its body is parsed, its texts are normalised, its rankings begun.

A request can't hold another one up for long. What its bodies and texts may cost is bounded (:mod:`ko_reranker.protocol.wire`,
:mod:`ko_reranker.text.work`), large ones have threads of their own, and between two texts it is asked whether anybody still
waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..protocol import QUERY, Document, RerankRequest
from ..rankers import Rankings
from ..text.normalising import normalise_all
from ..text.work import Allowance

if TYPE_CHECKING:
    from ..rankers import Ranker
    from ..rankers.interface import Rounds

T = TypeVar("T")

# What is smaller takes some milliseconds: bytes of a body that is parsed on the spot, characters that need no thread for
# large requests.
SMALL_BODY, SMALL_TEXTS = 65_536, 200_000
# Texts that are tokenised between two looks at whether they are still wanted.
_BLOCK_CHARACTERS = 500_000


class Begun(NamedTuple):
    """A request whose first round is ready to be computed.

    Attributes:
        indexes: of each ranking's documents, in the request.
        rankings: one a query, or several of a query with very long documents. Blank documents are in none.
        unrepaired: what of the request is unrepaired (`RerankResult.unrepaired`).
    """

    indexes: list[list[int]]
    rankings: Rankings
    unrepaired: tuple[int, ...]


class Unwanted(Exception):
    """Nobody waits for this any more."""


class Threads:
    """Does the work of small requests in one thread and that of large ones in another, and waits no longer than it may.

    What goes on with a request has a third one: its results do not wait until others' texts are tokenised.
    """

    def __init__(self) -> None:
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small-requests")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large-requests")
        self._further = ThreadPoolExecutor(1, thread_name_prefix="further-rounds")

    async def run(self, work: Callable[[Callable[[], None]], T], *, large: bool, deadline: float | None) -> T:
        """Return what some work returns.

        Args:
            work: is given what raises :class:`Unwanted` once nobody waits for it, to be called now and then.
            large: whether it may take longer than some milliseconds.
            deadline: on the clock of `time.monotonic`; None for none.

        Raises:
            TimeoutError: the time was over before the work was done.
        """
        return await self._run(self._large if large else self._small, work, deadline)

    async def go_on(self, work: Callable[[], T], *, deadline: float | None) -> T:
        """Return what some work returns that goes on with a request, as `run` does."""
        return await self._run(self._further, lambda check: work(), deadline)

    def close(self) -> None:
        """Finish what is being done, and let go of the threads."""
        for pool in (self._small, self._large, self._further):
            pool.shutdown(wait=True)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[Callable[[], None]], T], deadline: float | None) -> T:
        left = threading.Event()

        def check() -> None:
            if left.is_set() or (deadline is not None and time.monotonic() > deadline):
                raise Unwanted

        def checked() -> T:
            check()
            return work(check)

        job = asyncio.get_running_loop().run_in_executor(pool, checked)
        try:
            return await asyncio.wait_for(job, None if deadline is None else max(deadline - time.monotonic(), 0))
        except Unwanted:
            raise TimeoutError from None
        finally:
            left.set()


def is_large(request: RerankRequest) -> bool:
    """Return whether the texts of a request may take longer than some milliseconds."""
    queries = sum(map(len, set(request.queries)))
    return queries + sum(len(document.text) for document in request.documents) > SMALL_TEXTS


def begin(ranker: Ranker, request: RerankRequest, check: Callable[[], None]) -> Begun:
    """Return a request with its texts normalised and its rankings begun.

    Args:
        check: called between texts, to raise when the request is no longer wanted.
    """
    allowance = Allowance()
    queries, spoilt_queries = normalise_all(request.queries, allowance, check)
    texts, spoilt = normalise_all([document.text for document in request.documents], allowance, check)
    request = replace(request, queries=tuple(queries), documents=tuple(map(Document, texts)))
    options, parts = request.scoring_options(), []

    def rankings() -> Iterator[Rounds]:
        for query, indexes in request.scorable():
            # Absolute scores are the same in parts, and between two parts nobody may wait any more.
            for part in _blocks(indexes, texts) if ranker.absolute else [indexes]:
                check()
                parts.append(part)
                yield ranker.rounds(query, [texts[index] for index in part], **options)

    return Begun(parts, Rankings(rankings()), (*([QUERY] if spoilt_queries else []), *spoilt))


def _blocks(indexes: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the indexes of texts in blocks, in order; each of few enough characters, or of one text."""
    block: list[int] = []
    characters = 0
    for index in indexes:
        if block and characters + len(texts[index]) > _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
        block.append(index)
        characters += len(texts[index])
    yield block
