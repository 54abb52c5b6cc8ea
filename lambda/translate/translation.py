"""Translating a shard: what the memory knows is taken from it, the rest is claimed, translated and stored at once.

Each answer goes into the memory as soon as it is there, so that an invocation that dies has lost, and will pay again for,
only the requests in flight. Before a text is sent it is claimed in the memory: a second invocation of the same shard, or
another run with the same text, waits for the first one's translation. A text that can't be translated becomes a failure with
its reason; the join puts the records that need it into quarantine. Nothing but a translation ever stands where one belongs.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from amazon_translate import AmazonTranslate, OutOfTime, Pace, Refused, Throttled, Unavailable

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import dump_line, read_rows
from ko_reranker.data.store import Store
from ko_reranker.data.translation.memory import TranslationMemory
from ko_reranker.data.translation.packing import Pack, packed, packs, unpacked
from ko_reranker.data.translation.quality import problem
from ko_reranker.data.translation.texts import Part, Segment, TranslationSettings, assemble, parts_of
from ko_reranker.retraining.run import Run

# Below this the invocation begins no request: one may take 35 s, and then come the store, the part and the hand-back.
_RESERVE_MILLISECONDS = 60_000
# Texts that are looked up, packed and finished together; what one invocation may hold in memory.
WINDOW = 2_000
# Attempts at one request that failed in the service or on the way.
_ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Effort:
    """How a shard is translated.

    Attributes:
        concurrency: the most requests in flight.
        claim_seconds: how long a claim holds: longer than a request and its store can take.
        backoff_seconds: the first wait after an error; it doubles.
        most_seconds: the longest wait.
    """

    concurrency: int
    claim_seconds: float = 90.0
    backoff_seconds: float = 0.5
    most_seconds: float = 20.0


@dataclass(slots=True)
class Answers:
    """What is known of a window's segments.

    Attributes:
        texts: translations by key.
        failures: reasons by key.
    """

    texts: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Job:
    """A request to make.

    Attributes:
        pack: its segments.
        again: whether it is a second try after a bad translation; there is no third.
    """

    pack: Pack
    again: bool = False


@dataclass(slots=True)
class _Outcome:
    """What came of a job."""

    counts: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    held: list[Segment] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)


def translate_shard(
    event: dict[str, Any],
    store: Store,
    memory: TranslationMemory,
    client: Any,
    effort: Effort,
    remaining_milliseconds: Callable[[], int],
) -> dict[str, Any]:
    """Translate the texts of a shard from the cursor on.

    Args:
        event: ``shard`` (int), ``key`` (of the shard's texts), ``cursor`` (texts done by earlier invocations), ``counts`` (of
            earlier invocations) and ``request``.
        store: the data bucket; translations go to ``<prefix>/translated/<shard>/<cursor>.jsonl``.
        memory: the translation memory.
        client: a boto3 ``translate`` client (thread-safe) with `amazon_translate.CLIENT_CONFIG`.
        effort: concurrency and waiting times.
        remaining_milliseconds: the time this invocation has left.

    Returns:
        The event with the new ``cursor``, ``counts`` and ``finished``.

    Raises:
        PipelineError: when the service refuses the settings themselves, or lets nothing through for a whole invocation.
    """
    run, cursor = Run.from_json(event["request"]), event["cursor"]
    part = f"{run.prefix}/translated/{event['shard']:05d}/{cursor:09d}"
    done, finished = 0, True
    with (
        tempfile.TemporaryDirectory() as folder,
        _Translator(client, run.translation, memory, effort, remaining_milliseconds) as work,
    ):
        path, texts = Path(folder) / "part.jsonl", Path(folder) / "texts.jsonl"
        # A stream from S3 would be cut off while the service is asked.
        store.download(event["key"], texts)
        with path.open("wb") as out, closing(read_rows(texts)) as rows:
            for window in _windows(islice(rows, cursor, None)):
                try:
                    translated = work.translate(window)
                except OutOfTime:
                    finished = False
                    break
                out.writelines(map(dump_line, translated))
                done += len(window)
        counts = work.counts
        if done:
            store.upload(path, f"{part}.jsonl")
    if not finished and not done and not counts["translated"]:
        raise PipelineError(
            f"shard {event['shard']} got no translation in a whole invocation ({counts['throttled']} requests throttled, "
            f"{counts['unavailable']} failed): lower translation.max_concurrency in cdk.json or raise the account's Amazon "
            "Translate quota, and start an execution again; what is stored is not paid for again"
        )
    store.write_json(f"{part}.counts.json", dict(counts))
    total = Counter(event.get("counts") or {}) + counts
    return {**event, "cursor": cursor + done, "finished": finished, "counts": dict(total)}


def _windows(rows: Iterator[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    while window := list(islice(rows, WINDOW)):
        yield window


class _Translator:
    """The invocation's work on windows of texts; a context manager that gives its claims back."""

    def __init__(
        self,
        client: Any,
        settings: TranslationSettings,
        memory: TranslationMemory,
        effort: Effort,
        remaining_milliseconds: Callable[[], int],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._settings, self._memory, self._effort = settings, memory, effort
        self._service = AmazonTranslate(client, settings)
        self._remaining = remaining_milliseconds
        self._pace = Pace(effort.concurrency, self._in_time)
        self._owner = uuid.uuid4().hex
        self._claimed: set[str] = set()

    def __enter__(self) -> _Translator:
        self._pool = ThreadPoolExecutor(self._effort.concurrency)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        # A killed process can't do this; its claims run out by themselves.
        if self._claimed and (kind is None or issubclass(kind, Exception)):
            self._memory.release(self._claimed, self._owner)

    def translate(self, window: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return a row ``{"id", "text"}`` or ``{"id", "error"}`` for each row of a window.

        Raises:
            OutOfTime: when the time ends before the window does; what was translated is in the memory.
        """
        texts = [(row["id"], parts_of(row["text"], self._settings)) for row in window]
        segments = {part.segment.key: part.segment for _, parts in texts for part in parts if part.segment is not None}
        answers = Answers(texts=self._memory.find(segments))
        self.counts["from_memory"] += len(answers.texts)
        missing = [segment for segment in segments.values() if segment.key not in answers.texts]
        while missing:
            if not self._in_time():
                raise OutOfTime
            missing = self._run([_Job(pack) for pack in packs(missing)], answers)
            if missing:
                missing = self._wait_for_others(missing, answers)
        return [_row(key, parts, answers) for key, parts in texts]

    def _run(self, jobs: list[_Job], answers: Answers) -> list[Segment]:
        """Make requests until none is left and return the segments that someone else is having translated."""
        held: list[Segment] = []
        running: set[Future[_Outcome]] = {self._pool.submit(self._work, job) for job in jobs}
        out_of_time = False
        while running:
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                try:
                    outcome = future.result()
                except OutOfTime:
                    # The others see for themselves; what comes back until then is kept.
                    out_of_time = True
                    continue
                self.counts += outcome.counts
                answers.texts |= outcome.texts
                answers.failures |= outcome.failures
                held += outcome.held
                running |= {self._pool.submit(self._work, job) for job in outcome.jobs}
        if out_of_time:
            raise OutOfTime
        return held

    def _wait_for_others(self, held: list[Segment], answers: Answers) -> list[Segment]:
        """Take what others have stored by now; what is left may be claimed as soon as their claims run out."""
        if not self._in_time():
            raise OutOfTime
        self._sleep(self._effort.backoff_seconds)
        found = self._memory.find(segment.key for segment in held)
        self.counts["from_others"] += len(found)
        answers.texts |= found
        return [segment for segment in held if segment.key not in found]

    # ---------------------------------------------------------------- one request, in a thread of the pool

    def _work(self, job: _Job) -> _Outcome:
        outcome = _Outcome()
        pack, renew_at, attempts, delay = job.pack, 0.0, 0, self._effort.backoff_seconds
        while True:
            with self._pace.slot() as number:
                if time.monotonic() >= renew_at:
                    pack = self._claim(pack, outcome)
                    renew_at = time.monotonic() + self._effort.claim_seconds / 2
                if not pack:
                    return outcome
                texts = [segment.text for segment in pack]
                try:
                    answer = self._service.ask(packed(texts))
                except Throttled:
                    self._pace.throttled(number)
                    outcome.counts["throttled"] += 1
                except Unavailable as error:
                    attempts += 1
                    outcome.counts["unavailable"] += 1
                    if attempts == _ATTEMPTS:
                        return self._refused(pack, f"{error}, {attempts} times", outcome)
                except Refused as error:
                    return self._refused(pack, str(error), outcome)
                else:
                    self._pace.succeeded()
                    return self._keep(pack, answer, job.again, outcome)
            self._sleep(delay)
            delay = min(2 * delay, self._effort.most_seconds)

    def _claim(self, pack: Pack, outcome: _Outcome) -> Pack:
        claim = self._memory.claim([segment.key for segment in pack], self._owner, self._effort.claim_seconds)
        self._claimed |= claim.granted
        outcome.texts |= claim.known
        outcome.counts["from_others"] += len(claim.known)
        outcome.held += [segment for segment in pack if segment.key in claim.held]
        outcome.counts["held_by_others"] += len(claim.held)
        return tuple(segment for segment in pack if segment.key in claim.granted)

    def _keep(self, pack: Pack, answer: str, again: bool, outcome: _Outcome) -> _Outcome:
        """Store what is good in an answer; ask again, alone, for what is not."""
        texts = [segment.text for segment in pack]
        billed = len(packed(texts))
        outcome.counts.update({"requests": 1, "billed_characters": billed, "requested_texts": len(pack)})
        if again:
            outcome.counts.update({"quality_retries": 1, "quality_retry_characters": billed})
        translations = unpacked(texts, answer)
        if translations is None:
            outcome.counts.update({"packs_refused": 1, "unpacked_texts": len(pack), "unpacked_characters": billed})
            outcome.jobs = [_Job((segment,)) for segment in pack]
            return outcome
        good: dict[str, str] = {}
        for segment, translation in zip(pack, translations, strict=True):
            reason = problem(segment.text, translation, self._settings.target)
            if reason is None:
                good[segment.key] = translation
            elif again:
                outcome.failures[segment.key] = reason
            else:
                outcome.jobs.append(_Job((segment,), again=True))
        outcome.texts |= good | self._memory.store(good)
        outcome.counts.update({"translated": len(good), "failed": len(outcome.failures)})
        self._claimed -= good.keys()
        return outcome

    def _refused(self, pack: Pack, reason: str, outcome: _Outcome) -> _Outcome:
        """Blame the one text of a request, or find out which of many it was."""
        if len(pack) == 1:
            outcome.failures[pack[0].key] = reason
            outcome.counts["failed"] += 1
        else:
            outcome.counts.update({"packs_refused": 1, "unpacked_texts": len(pack)})
            outcome.jobs = [_Job((segment,)) for segment in pack]
        return outcome

    def _in_time(self) -> bool:
        return self._remaining() >= _RESERVE_MILLISECONDS

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311


def _row(key: str, parts: Iterable[Part], answers: Answers) -> dict[str, str]:
    parts = list(parts)
    for part in parts:
        if part.segment is not None and part.segment.key in answers.failures:
            return {"id": key, "error": answers.failures[part.segment.key]}
    return {"id": key, "text": assemble(parts, answers.texts)}
