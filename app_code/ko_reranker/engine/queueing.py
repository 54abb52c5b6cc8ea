"""Which work comes next: requests that wait for the model, and the micro-batches that are cut from them.

A request stays whole: its sequences go to the model together, after those of requests that are nearer to their end. Mixing
the sequences of all requests by length would make everybody wait for everybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ko_reranker.rankers.pairs import EncodedPair

# A micro-batch with fewer tokens wastes more on its start than it shares out.
_LEAST_TOKENS = 128


class DeadlineExceeded(Exception):
    """A request's time was over before it was scored."""


class Ticket(Future):
    """A request in the queue; its result is float32 logits, (sequences,), in the order of the sequences.

    ``cancel()`` drops what has not been handed out.

    Attributes:
        pairs: the sequences.
        deadline: when it is no longer wanted, on the clock of `time.monotonic`; None for never.
        queue_seconds: how long it waited for its first micro-batch.
        compute_seconds: from then until it was done.
    """

    def __init__(self, pairs: Sequence[EncodedPair], deadline: float | None, now: float) -> None:
        super().__init__()
        self.pairs = pairs
        self.deadline = deadline
        self.queue_seconds = self.compute_seconds = 0.0
        self.logits = np.empty(len(pairs), dtype=np.float32)
        # The longest first, so that what is left at the end is small and can be shared out evenly.
        self.todo = sorted(range(len(pairs)), key=lambda index: len(pairs[index]))
        self.waiting_tokens = sum(len(pair) for pair in pairs)
        self.unscored = len(pairs)
        self.arrived, self.started = now, None

    def take(self, budget: int, room: int) -> list[int]:
        """Hand out sequences that fit the budget of tokens, at most ``room`` of them."""
        taken: list[int] = []
        while self.todo and len(taken) < room and len(self.pairs[self.todo[-1]]) <= budget:
            index = self.todo.pop()
            budget -= len(self.pairs[index])
            self.waiting_tokens -= len(self.pairs[index])
            taken.append(index)
        return taken


class MicroBatch:
    """What one worker computes at once: sequences of one request or of several."""

    def __init__(self) -> None:
        self.parts: list[tuple[Ticket, list[int]]] = []
        self.tokens = self.sequences = 0

    def add(self, ticket: Ticket, indexes: list[int]) -> None:
        """Add some sequences of a request."""
        self.parts.append((ticket, indexes))
        self.sequences += len(indexes)
        self.tokens += sum(len(ticket.pairs[index]) for index in indexes)

    @property
    def pairs(self) -> list[EncodedPair]:
        """All sequences, in the order of the parts."""
        return [ticket.pairs[index] for ticket, indexes in self.parts for index in indexes]


class RequestQueue:
    """Requests by how soon each is done: shortest remaining work first, with ageing. Not thread-safe by itself.

    Small requests overtake large ones. Each ``half_life`` that a request has waited makes it count for half of the work that
    it still has, so that none starves: with the default, on a server that is full, the median of a load of small and large
    requests falls to a fraction of what it is in the order of arrival, and the largest wait a little longer than there
    (`make bench-serving`).

    Args:
        budget: tokens of a micro-batch; a longer sequence is a micro-batch of its own.
        workers: how many workers take from the queue.
        most_sequences: sequences of a micro-batch.
        half_life: the seconds of waiting that count like half of the work.
        clock: seconds, for example `time.monotonic`.
    """

    def __init__(
        self,
        budget: int,
        *,
        workers: int = 1,
        most_sequences: int = 2**31,
        half_life: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.workers = workers
        self.most_sequences = most_sequences
        self.half_life = half_life
        self.clock = clock
        self.tokens_per_second = 0.0
        self._tickets: list[Ticket] = []

    @property
    def tokens(self) -> int:
        """Tokens that nobody has begun to compute."""
        return sum(ticket.waiting_tokens for ticket in self._tickets)

    def __len__(self) -> int:
        """How many requests have work that nobody has begun to compute."""
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Let a request wait."""
        self._tickets.append(ticket)

    def take(self) -> MicroBatch | None:
        """Return the next micro-batch, None if nothing waits. Requests that are no longer wanted are let go."""
        now = self.clock()
        self._let_go(now)
        if not self._tickets:
            return None
        batch = MicroBatch()
        budget = self._share()
        for ticket in sorted(self._tickets, key=lambda ticket: self._rank(ticket, now)):
            room = self.most_sequences - batch.sequences
            # The first of a micro-batch goes in whatever its length: nothing is too long to be scored.
            least = 0 if batch.sequences else len(ticket.pairs[ticket.todo[-1]])
            indexes = ticket.take(max(budget - batch.tokens, least), room)
            if indexes:
                batch.add(ticket, indexes)
                if ticket.started is None:
                    ticket.started = now
                    ticket.queue_seconds = now - ticket.arrived
            if batch.tokens >= budget or batch.sequences >= self.most_sequences:
                break
        self._tickets = [ticket for ticket in self._tickets if ticket.todo]
        return batch

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn the speed of one worker from a micro-batch."""
        if seconds <= 0:
            return
        speed = tokens / seconds
        self.tokens_per_second += (speed - self.tokens_per_second) * (0.1 if self.tokens_per_second else 1.0)

    def seconds_of(self, tokens: int) -> float:
        """Return how long all workers together need for some tokens; 0 before anything was measured."""
        return tokens / (self.tokens_per_second * self.workers) if self.tokens_per_second else 0.0

    def _rank(self, ticket: Ticket, now: float) -> float:
        return ticket.waiting_tokens * 2.0 ** (-(now - ticket.arrived) / self.half_life)

    def _share(self) -> int:
        """Return the tokens of the next micro-batch: at the end of the work every worker gets its part of the rest."""
        share = -(-self.tokens // self.workers)
        return min(self.budget, max(share, _LEAST_TOKENS))

    def _let_go(self, now: float) -> None:
        for ticket in self._tickets:
            if ticket.deadline is not None and now > ticket.deadline and not ticket.done():
                ticket.set_exception(DeadlineExceeded("its time was over before it was scored"))
        self._tickets = [ticket for ticket in self._tickets if not ticket.done()]
