"""What the engine does when something goes wrong in it, and whom it takes in: nobody pays for anybody else."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ko_reranker.engine import Engine, EngineBusy, Ticket
from ko_reranker.engine.queueing import RequestQueue


class Pair:
    """So many tokens; their number is the logit, too."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return self.tokens


def of(*lengths: int) -> list[Pair]:
    return [Pair(length) for length in lengths]


def lengths_of(pairs: list[Pair]) -> tuple[np.ndarray, int]:
    return np.array([len(pair) for pair in pairs], np.float32), sum(map(len, pairs))


class Gate:
    """A model that waits for the test, pass by pass."""

    def __init__(self, then: Callable[[list[Pair]], tuple[np.ndarray, int]] = lengths_of) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Semaphore(0)
        self.then = then
        self.given: list[list[int]] = []

    def __call__(self, pairs: list[Pair]) -> tuple[np.ndarray, int]:
        self.given.append([len(pair) for pair in pairs])
        self.entered.release()
        assert self.leave.acquire(timeout=10)
        return self.then(pairs)


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Make engines that are closed when the test is over."""
    made: list[Engine] = []

    def make(forward, **options) -> Engine:
        made.append(Engine(forward, **{"batch_tokens": 100} | options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


class LeavesAsItIsLookedAt(Ticket):
    """Its client goes away between a look at it and what follows from the look."""

    def done(self) -> bool:
        seen = super().done()
        self.cancel()
        return seen


def test_a_client_that_leaves_at_the_very_moment_its_time_is_over_ends_no_queue():
    queue = RequestQueue(100, clock=lambda: 2.0)
    queue.add(LeavesAsItIsLookedAt(of(5), 1.0, 0.0))
    other = Ticket(of(7), None, 0.0)
    queue.add(other)
    assert queue.take().parts == [(other, [0])]


def test_no_worker_dies_of_clients_that_leave_just_as_their_time_is_over(engines):
    engine = engines(lambda pairs: lengths_of(pairs), workers=2)
    draw = random.Random(0)
    for _ in range(300):
        tickets = []
        for _ in range(8):
            with contextlib.suppress(EngineBusy):
                tickets.append(engine.submit(of(30, 30), deadline=time.monotonic() + 0.002))
        time.sleep(draw.random() * 0.004)
        for ticket in tickets:
            ticket.cancel()
    assert engine.score(of(3)) == [3]
    assert not engine.failing


class Ending(BaseException):
    """Ends a thread, as SystemExit does."""


@pytest.mark.parametrize("ending", [Ending, SystemExit, KeyboardInterrupt])
def test_a_dead_worker_is_replaced_for_those_who_wait_already(engines, ending):
    def then(pairs):
        if len(pairs[0]) == 13:
            raise ending
        return lengths_of(pairs)

    gate = Gate(then)
    engine = engines(gate)
    victim = engine.submit(of(13))
    assert gate.entered.acquire(timeout=10)
    waiting = [engine.submit(of(100)) for _ in range(3)]
    for _ in range(4):
        gate.leave.release()
    with pytest.raises(RuntimeError, match=ending.__name__):
        victim.result(timeout=10)
    assert [ticket.result(timeout=10) for ticket in waiting] == [[100]] * 3
    gate.leave.release()
    assert engine.score(of(5)) == [5]


def test_whatever_the_observer_does_the_answer_comes(engines):
    class Observer:
        def batch(self, **facts):
            raise RuntimeError("full disk")

        request = batch

    engine = engines(lengths_of, observer=Observer())
    assert [engine.score(of(5)) for _ in range(3)] == [[5]] * 3


@pytest.mark.parametrize("short", [0, 1])
def test_a_model_that_loses_results_is_an_error_and_not_a_wait(engines, short):
    engine = engines(lambda pairs: (np.zeros(short, np.float32), 0))
    with pytest.raises(ValueError, match="results"):
        engine.submit(of(5, 6)).result(timeout=10)


def test_only_the_request_that_makes_a_pass_fail_fails(engines):
    def then(pairs):
        if any(len(pair) == 13 for pair in pairs):
            raise IndexError("index out of range in self")
        return lengths_of(pairs)

    gate = Gate(then)
    engine = engines(gate, batch_tokens=1000)
    first = engine.submit(of(500))
    assert gate.entered.acquire(timeout=10)
    innocent = [engine.submit(of(20 + number, 40)) for number in range(5)]
    guilty = engine.submit(of(7, 13))
    for _ in range(8):
        gate.leave.release()
    assert [ticket.result(timeout=10) for ticket in innocent] == [[20 + number, 40] for number in range(5)]
    with pytest.raises(IndexError):
        guilty.result(timeout=10)
    assert first.result() == [500]
    assert len(gate.given[1]) == 12, "they were computed together first"


def test_who_left_meanwhile_is_not_computed_again(engines):
    def then(pairs):
        if len(pairs) > 1:
            raise MemoryError
        return lengths_of(pairs)

    gate = Gate(then)
    engine = engines(gate, batch_tokens=1000)
    first = engine.submit(of(500))
    assert gate.entered.acquire(timeout=10)
    leaving, staying = engine.submit(of(20)), engine.submit(of(30))
    gate.leave.release()
    assert gate.entered.acquire(timeout=10)
    assert leaving.cancel()
    for _ in range(2):
        gate.leave.release()
    assert staying.result(timeout=10) == [30]
    assert first.result() == [500]
    assert gate.given[2:] == [[30]]


def test_a_system_without_threads_says_so_and_nothing_is_left_waiting(engines, monkeypatch):
    engine = engines(lengths_of, workers=2)

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="thread"):
            engine.submit(of(5))
    assert engine.waiting == (0, 0)
    assert engine.score(of(6)) == [6]


def test_health_doubts_an_engine_whose_pass_never_ends(engines):
    gate, now = Gate(), [0.0]
    engine = engines(gate, clock=lambda: now[0])
    ticket = engine.submit(of(5))
    assert gate.entered.acquire(timeout=10)
    assert not engine.failing
    now[0] = 3600.0
    assert engine.failing
    gate.leave.release()
    ticket.result(timeout=10)


def test_health_doubts_an_engine_without_workers(engines, monkeypatch):
    engine = engines(lengths_of)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda thread: None)
        ticket = engine.submit(of(5))
    assert engine.failing
    assert engine.score(of(6)) == [6]
    assert ticket.result(timeout=10) == [5]
    assert not engine.failing


# ---------------------------------------------------------------- who is taken in


def queue_at(speed: int, now: list[float], **options) -> RequestQueue:
    """Return a queue of one worker that computes so many tokens a second, at the time that the list holds."""
    queue = RequestQueue(**{"budget": 100} | options, clock=lambda: now[0])
    queue.measured(speed, 1.0)
    return queue


def test_a_small_request_is_judged_by_what_comes_before_it_and_not_by_all_that_waits():
    queue = queue_at(1000, [0.0])
    queue.add(Ticket(of(*[100] * 2500), 60.0, 0.0))  # 250 seconds of work
    outlook = queue.outlook(Ticket(of(100), 60.0, 0.0))
    assert (outlook.tokens, outlook.wait_seconds) == (0, 0)
    assert outlook.seconds == pytest.approx(0.1)


def test_what_is_promised_never_lasts_longer_than_what_comes_first_can():
    now = [0.0]
    queue = queue_at(1000, now)
    for number in range(4):
        queue.add(Ticket(of(*[100] * (1000 + number)), 60.0, 0.0))
    large = Ticket(of(*[100] * 2500), 60.0, 0.0)
    assert queue.outlook(large).wait_seconds == 60.0, "those before it are let go when their time is over"
    now[0] = 45.0
    assert queue.outlook(large).wait_seconds <= 15.0


def test_no_small_requests_keep_one_that_was_taken_from_its_deadline():
    now = [0.0]
    queue = queue_at(1000, now)
    large = [Ticket(of(*[100] * 100), 23.0, 0.0) for _ in range(2)]  # ten seconds each
    for ticket in large:
        assert queue.outlook(ticket).seconds < 23
        queue.add(ticket)
    overtaking = 0
    while any(ticket.todo for ticket in large):
        queue.add(Ticket(of(100), None, now[0]))
        ((ticket, _),) = queue.take().parts
        overtaking += ticket not in large
        now[0] += 0.1
    assert now[0] <= 23 and not any(ticket.done() for ticket in large)
    assert overtaking >= 5, "until then the small ones come first"


def test_a_request_that_can_no_longer_be_done_in_time_holds_no_small_one_up():
    now = [0.0]
    queue = queue_at(1000, now)
    late = Ticket(of(*[100] * 100), 9.0, 0.0)  # the model has become slower since it was taken
    queue.add(late)
    small = Ticket(of(100), None, 0.0)
    queue.add(small)
    assert queue.take().parts[0][0] is small


def test_the_outlook_has_the_order_of_the_queue():
    now = [0.0]
    queue = queue_at(1000, now)
    old = Ticket(of(*[100] * 100), None, 0.0)
    queue.add(old)
    now[0] = 60.0
    small, large = Ticket(of(100), None, now[0]), Ticket(of(*[100] * 90), None, now[0])
    assert [queue.outlook(ticket).tokens for ticket in (small, large)] == [0, 10_000]
    queue.add(large)
    queue.add(small)
    assert [queue.outlook(Ticket(of(size), None, now[0])).tokens for size in (100, 9_000)] == [100, 19_100]
    order = [queue.take().parts for _ in range(191)]
    assert order == [
        [(small, [0])],
        *([(old, [place])] for place in reversed(range(100))),
        *([(large, [place])] for place in reversed(range(90))),
    ]


def test_what_is_being_computed_counts_for_the_rest_of_its_time():
    now = [0.0]
    queue = queue_at(100, now, budget=1000, workers=2)
    queue.add(Ticket(of(200), None, 0.0))
    batch = queue.take()
    now[0] = 1.0
    assert queue.outlook(Ticket(of(50), None, 1.0)).wait_seconds == pytest.approx(0.5)  # one more second of one of two
    queue.computed(batch)
    assert queue.outlook(Ticket(of(50), None, 1.0)).wait_seconds == 0


def test_small_micro_batches_do_not_make_a_fast_machine_look_slow():
    queue = RequestQueue(1000)
    queue.measured(10, 0.1)
    assert queue.tokens_per_second == 100, "better than nothing"
    queue.measured(1000, 0.1)
    assert queue.tokens_per_second == 10_000
    for _ in range(1000):
        queue.measured(10, 0.1)
    assert queue.tokens_per_second == 10_000
    for _ in range(100):
        queue.measured(1000, 1.0)
    assert queue.tokens_per_second == pytest.approx(1_000, rel=0.01)


def test_a_micro_batch_that_had_to_wait_does_not_pass_for_the_speed():
    queue = RequestQueue(1000)
    queue.measured(1000, 1.0)
    queue.measured(1000, 0.1)
    queue.measured(1000, 0.1)
    assert queue.tokens_per_second == pytest.approx(7_000)


def measured_engine(engines, speed: int, **options) -> tuple[Engine, Gate]:
    """Return an engine that has computed so many tokens a second; then its clock stands still, at 0."""
    first = 100
    now = [-first / speed]

    def compute(pairs: list[Pair]) -> tuple[np.ndarray, int]:
        now[0] = 0.0
        return lengths_of(pairs)

    gate = Gate(compute)
    engine = engines(gate, batch_tokens=first, clock=lambda: now[0], **options)
    gate.leave.release()
    assert engine.score(of(first)) == [first]
    assert gate.entered.acquire(timeout=10)
    return engine, gate


def test_one_large_request_locks_nobody_out_and_one_without_a_chance_is_told_at_once(engines):
    engine, gate = measured_engine(engines, 1000)
    tickets = [engine.submit(of(*[100] * 500), deadline=60.0)]  # 50 seconds
    assert gate.entered.acquire(timeout=10)
    tickets.append(engine.submit(of(100), deadline=60.0))
    with pytest.raises(EngineBusy, match=r"its own 250000 tokens take .* more than the request has time for") as hopeless:
        engine.submit(of(*[100] * 2500), deadline=60.0)
    assert hopeless.value.retry_after_seconds <= 60
    with pytest.raises(EngineBusy, match="waiting for the model before this request, more than") as late:
        engine.submit(of(*[100] * 510), deadline=60.0)
    assert 0 < late.value.retry_after_seconds <= 60
    tickets[0].cancel()
    for _ in range(3):
        gate.leave.release()
    assert tickets[1].result(timeout=10) == [100]


def test_a_bounded_queue_counts_what_comes_before_a_request(engines):
    engine, gate = measured_engine(engines, 1000, max_queue_tokens=1000)
    tickets = [engine.submit(of(100))]
    assert gate.entered.acquire(timeout=10)
    tickets += [engine.submit(of(*[100] * 20))]  # alone in the queue: any size
    tickets += [engine.submit(of(*[100] * 2)), engine.submit(of(*[100] * 2))]  # small: they come before it
    for size in (6, 20, 21):  # not small: behind it; past the limit by itself, too
        with pytest.raises(EngineBusy):
            engine.submit(of(*[100] * size))
    for _ in range(40):
        gate.leave.release()
    assert [len(ticket.result(timeout=10)) for ticket in tickets] == [1, 20, 2, 2]


def test_a_request_is_judged_before_it_is_tokenised_by_what_it_has_at_least(engines):
    engine, gate = measured_engine(engines, 1000)
    ticket = engine.submit(of(*[100] * 100), deadline=60.0)
    assert gate.entered.acquire(timeout=10)
    assert engine.outlook(100).tokens == 0
    engine.check(100, deadline=5.0)
    with pytest.raises(EngineBusy):
        engine.check(20_000, deadline=5.0)
    ticket.cancel()
    gate.leave.release()
