"""Which work comes next: requests that wait for the model, and the micro-batches that are cut from them.

A request stays whole: its sequences go to the model together, after those of requests whose turn is before its own. Mixing the
sequences of all requests by length would make everybody wait for everybody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import NamedTuple, cast

from .items import Item, Result

# A micro-batch with fewer tokens wastes more on its start than it shares out.
_LEAST_TOKENS = 128
# What a request is small beside: the mean of about so many before it.
_REMEMBERED_REQUESTS = 200
# The share of its work that a request's deadline is kept away from: the speed is not known better.
_SPARE = 0.1


class DeadlineExceeded(Exception):
    """A request's time was over before it was scored."""


class Ticket(Future[list[Result]]):
    """A request in the queue; its result is the list of its items' results, in their order.

    ``cancel()`` drops what has not been handed out. Whoever waits may do so at any moment, from another thread: between a look
    at ``done()`` and what follows, too. So a ticket is settled by `succeed` and `fail` only, which take that for what it is.

    Attributes:
        items: the sequences.
        tokens: theirs.
        deadline: when it is no longer wanted, on the clock of `time.monotonic`; None for never.
        queue_seconds: how long it waited for its first micro-batch.
        compute_seconds: from then until it was done.
        small: whether it overtakes those that are not, as it stood when it came.
    """

    def __init__(self, items: Sequence[Item], deadline: float | None, now: float) -> None:
        super().__init__()
        self.items = items
        self.deadline = deadline
        self.queue_seconds = self.compute_seconds = 0.0
        self.results: list[Result | None] = [None] * len(items)
        # The longest first, so that what is left at the end is small and can be shared out evenly.
        self.todo = sorted(range(len(items)), key=lambda index: len(items[index]))
        self.tokens = self.waiting_tokens = sum(len(item) for item in items)
        self.unscored = len(items)
        self.arrived = now
        self.started: float | None = None
        self.small = False

    def succeed(self) -> None:
        """Hand over the results, unless they are no longer wanted."""
        with contextlib.suppress(InvalidStateError):
            self.set_result(cast(list[Result], self.results))  # all are there by now

    def fail(self, error: Exception) -> None:
        """Hand over an error, unless nothing is wanted any more."""
        with contextlib.suppress(InvalidStateError):
            self.set_exception(error)

    def take(self, budget: int, room: int) -> list[int]:
        """Hand out sequences that fit the budget of tokens, at most ``room`` of them."""
        taken: list[int] = []
        while self.todo and len(taken) < room and len(self.items[self.todo[-1]]) <= budget:
            index = self.todo.pop()
            budget -= len(self.items[index])
            self.waiting_tokens -= len(self.items[index])
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
        self.tokens += sum(len(ticket.items[index]) for index in indexes)

    @property
    def items(self) -> list[Item]:
        """All sequences, in the order of the parts."""
        return [ticket.items[index] for ticket, indexes in self.parts for index in indexes]

    def alone(self) -> Iterator[MicroBatch]:
        """Yield a micro-batch for each request that still waits for its part."""
        for ticket, indexes in self.parts:
            if not ticket.done():
                batch = MicroBatch()
                batch.add(ticket, indexes)
                yield batch

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits for it."""
        for ticket, _ in self.parts:
            ticket.fail(error)


class Outlook(NamedTuple):
    """What a request has to expect if it joins the queue now, by the speed measured so far.

    Attributes:
        tokens: what waits and comes before it.
        wait_seconds: how long that can last; no request lasts beyond its own deadline.
        seconds: when it would be answered itself.
    """

    tokens: int
    wait_seconds: float
    seconds: float


class RequestQueue:
    """Requests in the order of their arrival, the small ones first. Not thread-safe by itself.

    A request is small if it has at most half of the tokens that requests have had lately on average. Such requests are half or
    more of a mixed load, and hardly more than half of its work; where all are alike, everybody keeps the order. A load that is
    not what it was lately can have many more of them: so what they overtake by is counted, and once that is more than the next
    large one's own work, the large ones have their turn, and so they do where one of them would otherwise miss its deadline.
    So small ones never keep a request waiting for more than twice what it and the large ones before it take, however many
    come. By what is left of each, as schedulers for the least mean time go, it would wait for all that are smaller.

    Args:
        budget: tokens of a micro-batch; a longer sequence is a micro-batch of its own.
        workers: how many workers take from the queue.
        most_sequences: sequences of a micro-batch.
        clock: seconds, for example `time.monotonic`.
    """

    def __init__(
        self,
        budget: int,
        *,
        workers: int = 1,
        most_sequences: int = 2**31,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.workers = workers
        self.most_sequences = most_sequences
        self.clock = clock
        self._tickets: list[Ticket] = []
        self._computing: dict[MicroBatch, float] = {}
        self._full_ones_measured = False
        self._mean_tokens, self._seen = 0.0, 0
        self._overtaken = 0  # tokens of small requests that came before waiting large ones, less those that these had since
        self.forget_speed()

    @property
    def tokens(self) -> int:
        """Tokens that nobody has begun to compute."""
        return sum(ticket.waiting_tokens for ticket in self._tickets)

    def __len__(self) -> int:
        """How many requests have work that nobody has begun to compute."""
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Let a request wait."""
        ticket.small = self._is_small(ticket)
        self._mean_tokens = self._mean_with(ticket)
        self._seen = min(self._seen + 1, _REMEMBERED_REQUESTS)
        self._tickets.append(ticket)

    def take(self) -> MicroBatch | None:
        """Return the next micro-batch, None if nothing waits. Requests that are no longer wanted are let go."""
        now = self.clock()
        self._let_go(now)
        if not self._tickets:
            return None
        batch = MicroBatch()
        budget = self._share()
        large_ones_wait = bool(self._large())
        for ticket in self._in_order(now):
            room = self.most_sequences - batch.sequences
            # The first of a micro-batch goes in whatever its length: nothing is too long to be scored.
            least = 0 if batch.sequences else len(ticket.items[ticket.todo[-1]])
            indexes = ticket.take(max(budget - batch.tokens, least), room)
            if indexes:
                before = batch.tokens
                batch.add(ticket, indexes)
                self._overtaken += (batch.tokens - before) * (1 if ticket.small else -1)
                if ticket.started is None:
                    ticket.started = now
                    ticket.queue_seconds = now - ticket.arrived
            if batch.tokens >= budget or batch.sequences >= self.most_sequences:
                break
        self._overtaken = max(0, self._overtaken) if large_ones_wait else 0
        self._tickets = [ticket for ticket in self._tickets if ticket.todo]
        self._computing[batch] = now
        return batch

    def computed(self, batch: MicroBatch) -> None:
        """Take note that a micro-batch is no longer being computed, however it went."""
        self._computing.pop(batch, None)

    def oldest_seconds(self) -> float:
        """Return how long the oldest micro-batch has been computed by now; 0 if none is."""
        return self.clock() - min(self._computing.values()) if self._computing else 0.0

    def clear(self, error: Exception) -> None:
        """Let go of all that waits, and say why."""
        for ticket in self._tickets:
            ticket.fail(error)
        self._tickets = []

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn the speed of one worker from a micro-batch.

        Where much waits, micro-batches are full, and a full one does more a second than a small one, on a GPU many times as
        much: the small ones count only as long as there was none that was at least half full. The first ten count alike, so
        that one that had to wait for the machine does not pass for the speed; then what is new counts a tenth.
        """
        full = 2 * tokens >= self.budget
        if seconds <= 0 or (self._full_ones_measured and not full):
            return
        if full > self._full_ones_measured:
            self.forget_speed()
        self._full_ones_measured = full
        self._measured += 1
        self.tokens_per_second += (tokens / seconds - self.tokens_per_second) * max(0.1, 1 / self._measured)

    def forget_speed(self) -> None:
        """Know no speed again: what has been measured so far is no measure of what comes."""
        self.tokens_per_second, self._measured, self._full_ones_measured = 0.0, 0, False

    def outlook(self, ticket: Ticket) -> Outlook:
        """Return what a request has to expect if it is added now; small ones that come later may still overtake it."""
        now = self.clock()
        self._let_go(now)
        small = self._is_small(ticket)
        ahead = [other for other in self._in_order(now) if other.small or not small]
        # What the large ones have to catch up on comes before a small one.
        owed = 0
        if small and (large := self._large()):
            owed = min(max(0, self._overtaken - large[0].tokens), sum(other.waiting_tokens for other in large))
        wait = self._computing_seconds(now) + self.seconds_of(owed)
        for other in ahead:
            last = float("inf") if other.deadline is None else max(wait, other.deadline - now)
            wait = min(wait + self.seconds_of(other.waiting_tokens), last)
        tokens = owed + sum(other.waiting_tokens for other in ahead)
        return Outlook(tokens, wait, wait + self.seconds_of(ticket.waiting_tokens))

    def seconds_of(self, tokens: int) -> float:
        """Return how long all workers together need for some tokens; 0 before anything was measured."""
        return tokens / (self.tokens_per_second * self.workers) if self.tokens_per_second else 0.0

    def _computing_seconds(self, now: float) -> float:
        if not self.tokens_per_second:
            return 0.0
        left = (batch.tokens / self.tokens_per_second - (now - begun) for batch, begun in self._computing.items())
        return sum(max(0.0, seconds) for seconds in left) / self.workers

    def _is_small(self, ticket: Ticket) -> bool:
        return 2 * ticket.waiting_tokens <= self._mean_with(ticket)

    def _mean_with(self, ticket: Ticket) -> float:
        return self._mean_tokens + (ticket.waiting_tokens - self._mean_tokens) / min(self._seen + 1, _REMEMBERED_REQUESTS)

    def _in_order(self, now: float) -> list[Ticket]:
        large = self._large()
        large_first = bool(large) and (self._overtaken > large[0].tokens or self._pressed(large, now))
        # Tickets are kept as they came, and sorting is stable.
        return sorted(self._tickets, key=lambda ticket: ticket.small == large_first)

    def _large(self) -> list[Ticket]:
        """Return the requests that are not small, as they came."""
        return [ticket for ticket in self._tickets if not ticket.small]

    def _pressed(self, large: Sequence[Ticket], now: float) -> bool:
        """Return whether one of some requests is done in time if they are next, and not much later."""
        ready = now + self._computing_seconds(now)
        spare = self.seconds_of(self.budget * self.workers)
        for ticket in large:
            seconds = self.seconds_of(ticket.waiting_tokens)
            ready, spare = ready + seconds, spare + _SPARE * seconds
            if ticket.deadline is not None and ready <= ticket.deadline < ready + spare:
                return True
        return False

    def _share(self) -> int:
        """Return the tokens of the next micro-batch: at the end of the work every worker gets its part of the rest."""
        share = -(-self.tokens // self.workers)
        return min(self.budget, max(share, _LEAST_TOKENS))

    def _let_go(self, now: float) -> None:
        for ticket in self._tickets:
            if ticket.deadline is not None and now > ticket.deadline:
                ticket.fail(DeadlineExceeded("its time was over before it was scored"))
        self._tickets = [ticket for ticket in self._tickets if not ticket.done()]
