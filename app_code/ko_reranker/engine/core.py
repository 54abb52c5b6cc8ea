"""The engine: worker threads that score what is submitted, in micro-batches shared by all requests in flight."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from .queueing import MicroBatch, RequestQueue, Ticket

if TYPE_CHECKING:
    from ko_reranker.rankers.pairs import EncodedPair

# From pairs to float32 logits, (pairs,), and how many tokens were computed for them, padding included.
Forward = Callable[[Sequence["EncodedPair"]], tuple[np.ndarray, int]]


# A worker without work for this long ends; the next request starts another.
_IDLE_SECONDS = 5.0


class EngineBusy(Exception):
    """More is waiting than may wait.

    Attributes:
        retry_after_seconds: when it is worth coming again, by the speed measured so far.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineClosed(Exception):
    """The engine takes nothing more."""


class EngineObserver(Protocol):
    """Is told what happens. Called from the worker threads; must be quick and must not raise."""

    def batch(self, *, sequences: int, tokens: int, computed_tokens: int, seconds: float) -> None:
        """A micro-batch was computed: of ``computed_tokens``, all but ``tokens`` were padding."""

    def request(self, *, sequences: int, tokens: int, queue_seconds: float, compute_seconds: float) -> None:
        """A request was scored: how long it waited, and how long it took from its first micro-batch to its last."""


class Engine:
    """Scores pairs in worker threads.

    On a CPU, several workers of one thread each do more than one worker with several threads: nobody waits for the others
    at the end of each product. On a GPU there is one worker.

    Args:
        forward: scores some pairs; called by all workers at once.
        batch_tokens: tokens of a micro-batch; bounds the memory of a forward pass.
        workers: threads that score.
        threads: threads that PyTorch may use inside each worker.
        most_sequences: sequences of a micro-batch.
        max_queue_tokens: tokens that may wait; None for any number.
        observer: is told of micro-batches and requests.

    Attributes:
        failing: whether the last forward pass failed. Once a GPU has gone wrong, all of them do until the process ends.
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
    ) -> None:
        self.observer = observer
        self.max_queue_tokens = max_queue_tokens
        self.batch_tokens = batch_tokens
        self.failing = False
        self._forward = forward
        self._threads = threads
        self._queue = RequestQueue(batch_tokens, workers=workers, most_sequences=most_sequences)
        self._changed = threading.Condition()
        self._closed = False
        self._most_workers = workers
        self._workers: set[threading.Thread] = set()

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests wait, and how many tokens they have left."""
        with self._changed:
            return len(self._queue), self._queue.tokens

    def wait_seconds(self) -> float:
        """Return how long what is waiting now will take, by the speed measured so far."""
        with self._changed:
            return self._queue.seconds_of(self._queue.tokens)

    def submit(self, pairs: Sequence[EncodedPair], *, deadline: float | None = None) -> Ticket:
        """Let pairs wait for their scores.

        Args:
            pairs: of one request, in any number.
            deadline: when they are no longer wanted, on the clock of `time.monotonic`.

        Returns:
            A future of float32 logits, (pairs,). Cancelling it drops what has not been begun.

        Raises:
            EngineBusy: too much is waiting, or what is waiting cannot be done before the deadline.
            EngineClosed: the engine was closed.
        """
        return self._accept(Ticket(pairs, deadline, time.monotonic()), bounded=True)

    def score(self, pairs: Sequence[EncodedPair]) -> np.ndarray:
        """Return float32 logits, (pairs,), however much is waiting."""
        return self._accept(Ticket(pairs, None, time.monotonic()), bounded=False).result()

    def close(self) -> None:
        """Score what is waiting, then end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            workers = list(self._workers)
        for worker in workers:
            worker.join()

    def _accept(self, ticket: Ticket, *, bounded: bool) -> Ticket:
        if not ticket.pairs:
            ticket.set_result(ticket.logits)
            return ticket
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if bounded:
                self._check_room(ticket)
            self._queue.add(ticket)
            while len(self._workers) < self._most_workers:
                worker = threading.Thread(target=self._work, name=f"scoring-{len(self._workers)}", daemon=True)
                self._workers.add(worker)
                worker.start()
            self._changed.notify_all()
        return ticket

    def _check_room(self, ticket: Ticket) -> None:
        waiting = self._queue.tokens
        seconds = self._queue.seconds_of(waiting)
        # An empty queue takes a request of any size: it would never fit otherwise.
        if self.max_queue_tokens is not None and waiting and waiting + ticket.waiting_tokens > self.max_queue_tokens:
            raise EngineBusy(f"{waiting} tokens are waiting for the model", seconds)
        if ticket.deadline is not None and waiting and time.monotonic() + seconds > ticket.deadline:
            raise EngineBusy(f"{waiting} tokens are waiting for the model, more than the request has time for", seconds)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while (batch := self._next()) is not None:
            started = time.monotonic()
            try:
                logits, computed = self._forward(batch.pairs)
            except Exception as error:  # whatever it is, it belongs to those who wait for the batch
                self._fail(batch, error)
                continue
            self._deliver(batch, logits, computed, started)

    def _next(self) -> MicroBatch | None:
        with self._changed:
            while True:
                if batch := self._queue.take():
                    return batch
                # Idle threads end, so that a ranker that nobody needs any more can go, with or without `close`.
                if self._closed or not self._changed.wait(_IDLE_SECONDS):
                    self._workers.discard(threading.current_thread())
                    return None

    def _fail(self, batch: MicroBatch, error: Exception) -> None:
        self.failing = True
        for ticket, _ in batch.parts:
            with contextlib.suppress(InvalidStateError):
                ticket.set_exception(error)

    def _deliver(self, batch: MicroBatch, logits: np.ndarray, computed: int, started: float) -> None:
        now = time.monotonic()
        self.failing = False
        done = []
        with self._changed:
            self._queue.measured(batch.tokens, now - started)
            place = 0
            for ticket, indexes in batch.parts:
                ticket.logits[indexes] = logits[place : place + len(indexes)]
                place += len(indexes)
                ticket.unscored -= len(indexes)
                if not ticket.unscored:
                    done.append(ticket)
        if self.observer:
            self.observer.batch(sequences=batch.sequences, tokens=batch.tokens, computed_tokens=computed, seconds=now - started)
        for ticket in done:
            ticket.compute_seconds = now - ticket.arrived - ticket.queue_seconds
            if self.observer and not ticket.done():
                self.observer.request(
                    sequences=len(ticket.pairs),
                    tokens=sum(map(len, ticket.pairs)),
                    queue_seconds=ticket.queue_seconds,
                    compute_seconds=ticket.compute_seconds,
                )
            # It may have been cancelled, or its time may have run out, while it was computed.
            with contextlib.suppress(InvalidStateError):
                ticket.set_result(ticket.logits)
