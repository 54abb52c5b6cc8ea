"""The engine: worker threads that compute what is submitted, in micro-batches shared by all requests in flight."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .items import Item, Result, Results
from .queueing import MicroBatch, Outlook, RequestQueue, Ticket

# From items to a result for each, and how many tokens were computed for them, padding included.
Forward = Callable[[Sequence[Item]], tuple[Results, int]]

# A worker without work for this long ends; the next request starts another.
_IDLE_SECONDS = 5.0
# A micro-batch takes milliseconds on a GPU and seconds on a CPU; one that takes longer than this will never end.
_HANGING_SECONDS = 300.0

LOGGER = logging.getLogger(__name__)


class EngineBusy(Exception):
    """More is waiting than may wait.

    Attributes:
        retry_after_seconds: how long what comes before the request can last, by the speed measured so far.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineClosed(Exception):
    """The engine takes nothing more."""


class EngineObserver(Protocol):
    """Is told what happens. Called from the worker threads; must be quick. What it raises is logged."""

    def batch(self, *, sequences: int, tokens: int, computed_tokens: int, seconds: float) -> None:
        """A micro-batch was computed: of ``computed_tokens``, all but ``tokens`` were padding."""

    def request(self, *, sequences: int, tokens: int, queue_seconds: float, compute_seconds: float) -> None:
        """A request was scored: how long it waited, and how long it took from its first micro-batch to its last."""


class WorkerEnded(RuntimeError):
    """The thread that computed a request was ended from outside."""


class Engine:
    """Computes items in worker threads. Whatever happens in one of them, another takes its place while anything waits.

    On a CPU, several workers of one thread each do more than one worker with several threads: nobody waits for the others
    at the end of each product. On a GPU there is one worker.

    Args:
        forward: computes some items; called by all workers at once.
        batch_tokens: tokens of a micro-batch; bounds the memory of a forward pass.
        workers: threads that compute.
        threads: threads that PyTorch may use inside each worker.
        most_sequences: sequences of a micro-batch.
        max_queue_tokens: tokens that may wait before a request's end, its own included; None for any number.
        observer: is told of micro-batches and requests.
        clock: seconds, those of deadlines.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        batch_tokens: int,
        workers: int = 1,
        threads: int = 1,
        most_sequences: int = 2**31,
        max_queue_tokens: int | None = None,
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.observer = observer
        self.max_queue_tokens = max_queue_tokens
        self.batch_tokens = batch_tokens
        self._failed = False
        self._forward = forward
        self._threads = threads
        self._clock = clock
        self._queue = RequestQueue(batch_tokens, workers=workers, most_sequences=most_sequences, clock=clock)
        self._changed = threading.Condition()
        self._closed = False
        self.workers = workers
        self._workers: set[threading.Thread] = set()

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests wait, and how many tokens they have left."""
        with self._changed:
            return len(self._queue), self._queue.tokens

    @property
    def failing(self) -> bool:
        """Whether there is reason to doubt that it scores.

        The last forward pass failed (once a GPU has gone wrong, all of them do until the process ends), or one hangs, or
        something waits and no worker is alive.
        """
        with self._changed:
            unattended = len(self._queue) > 0 and not any(worker.is_alive() for worker in self._workers)
            return self._failed or unattended or self._queue.oldest_seconds() > _HANGING_SECONDS

    def outlook(self, tokens: int) -> Outlook:
        """Return what a request of so many tokens has to expect if it comes now."""
        with self._changed:
            return self._queue.outlook(self._standing_for(tokens, None))

    def forget_speed(self) -> None:
        """Judge no request by the passes so far, which did what happens only once."""
        with self._changed:
            self._queue.forget_speed()

    def check(self, tokens: int, *, deadline: float) -> None:
        """Judge a request of so many tokens before there are any.

        Raises:
            EngineBusy: as `submit` does.
        """
        with self._changed:
            self._check_room(self._standing_for(tokens, deadline))

    def submit(self, items: Sequence[Item], *, deadline: float | None = None, admitted: bool = False) -> Ticket:
        """Let items wait for their results.

        Args:
            items: of one request, in any number.
            deadline: when they are no longer wanted, on the engine's clock.
            admitted: whether they go on with a request that was let in before, and is not turned away half done.

        Returns:
            A future of the list of their results. Cancelling it drops what has not been begun.

        Raises:
            EngineBusy: too much comes before it, or it would not be done before its deadline.
            EngineClosed: the engine was closed.
        """
        return self._accept(Ticket(items, deadline, self._clock()), bounded=not admitted)

    def score(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of items, however much is waiting."""
        return self._accept(Ticket(items, None, self._clock()), bounded=False).result()

    def close(self) -> None:
        """Score what is waiting, then end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while workers := list(self._workers):
            for worker in workers:
                worker.join()

    def _accept(self, ticket: Ticket, *, bounded: bool) -> Ticket:
        if not ticket.items:
            ticket.succeed()
            return ticket
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if bounded:
                self._check_room(ticket)
            self._hire()
            self._queue.add(ticket)
            self._changed.notify_all()
        return ticket

    def _check_room(self, ticket: Ticket) -> None:
        outlook = self._queue.outlook(ticket)
        most, own = self.max_queue_tokens, ticket.waiting_tokens
        # An empty queue takes a request of any size: it would never fit otherwise.
        if most is not None and self._queue.tokens and outlook.tokens + own > most:
            raise EngineBusy(f"{outlook.tokens} tokens are waiting for the model before this request", outlook.wait_seconds)
        left = float("inf") if ticket.deadline is None else ticket.deadline - self._clock()
        if outlook.seconds > left:
            alone = self._queue.seconds_of(own)
            reason = (
                f"its own {own} tokens take the model about {alone:.0f} seconds"
                if alone > left
                else f"{outlook.tokens} tokens are waiting for the model before this request"
            )
            raise EngineBusy(f"{reason}, more than the request has time for", outlook.wait_seconds)

    def _standing_for(self, tokens: int, deadline: float | None) -> Ticket:
        """Return a ticket that weighs so many tokens, at least one."""
        return Ticket((range(max(1, tokens)),), deadline, self._clock())  # type: ignore[arg-type]  # its length is all that counts

    def _hire(self) -> None:
        """See that there are workers, in place of dead ones, too.

        Raises:
            RuntimeError: there is none, and the system gives no thread.
        """
        self._workers = {worker for worker in self._workers if worker.is_alive()}
        while len(self._workers) < self.workers:
            worker = threading.Thread(target=self._work, name=f"scoring-{len(self._workers)}", daemon=True)
            try:
                worker.start()
            except RuntimeError:
                if not self._workers:
                    raise
                return
            self._workers.add(worker)

    def _work(self) -> None:
        batch = None
        try:
            torch.set_num_threads(self._threads)
            while (batch := self._next()) is not None:
                self._compute(batch)
        except BaseException as error:
            LOGGER.exception("a scoring thread ended")
            if batch is not None:
                batch.fail(WorkerEnded(f"its thread was ended by {type(error).__name__}"))
        finally:
            self._leave(batch)

    def _next(self) -> MicroBatch | None:
        with self._changed:
            while True:
                try:
                    if batch := self._queue.take():
                        return batch
                except Exception as error:  # what was taken out and what is still in cannot be told apart any more
                    self._queue.clear(error)
                    raise
                # Idle threads end, so that a ranker that nobody needs any more can go, with or without `close`.
                if self._closed or not self._changed.wait(_IDLE_SECONDS):
                    self._workers.discard(threading.current_thread())
                    return None

    def _leave(self, batch: MicroBatch | None) -> None:
        with self._changed:
            if batch is not None:
                self._queue.computed(batch)
            self._workers.discard(threading.current_thread())
            if len(self._queue):
                self._hire()

    def _compute(self, batch: MicroBatch) -> None:
        """Compute a micro-batch; one that fails request by request, so that only those fail who are the cause."""
        started = self._clock()
        try:
            results, computed = self._forward(batch.items)
            if len(results) != batch.sequences:
                raise ValueError(f"{len(results)} results for {batch.sequences} sequences")
        except Exception as error:
            self._failed = True
            if len(batch.parts) == 1:
                batch.fail(error)
            else:
                for part in batch.alone():
                    self._compute(part)
        else:
            self._failed = False
            self._deliver(batch, results, computed, self._clock() - started)
        finally:
            with self._changed:
                self._queue.computed(batch)

    def _deliver(self, batch: MicroBatch, results: Results, computed: int, seconds: float) -> None:
        now = self._clock()
        done = []
        with self._changed:
            self._queue.measured(batch.tokens, seconds)
            coming = iter(results)
            for ticket, indexes in batch.parts:
                for index in indexes:
                    ticket.results[index] = next(coming)
                ticket.unscored -= len(indexes)
                if not ticket.unscored:
                    done.append(ticket)
        self._tell("batch", sequences=batch.sequences, tokens=batch.tokens, computed_tokens=computed, seconds=seconds)
        for ticket in done:
            ticket.compute_seconds = now - ticket.arrived - ticket.queue_seconds
            if not ticket.done():
                self._tell(
                    "request",
                    sequences=len(ticket.items),
                    tokens=sum(map(len, ticket.items)),
                    queue_seconds=ticket.queue_seconds,
                    compute_seconds=ticket.compute_seconds,
                )
            # It may have been cancelled, or its time may have run out, while it was computed.
            ticket.succeed()

    def _tell(self, what: str, **facts: float) -> None:
        if self.observer is None:
            return
        try:
            getattr(self.observer, what)(**facts)
        except Exception:  # counting is not worth anybody's answer
            LOGGER.exception("the observer failed")
