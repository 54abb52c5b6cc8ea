"""Planning a translation: distinct texts, shards, characters and dollars.

What the plan says is what the translation does: texts are cut, packed and looked up by the same code.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import DamagedFile, dump_line
from ko_reranker.data.records import TrainingRecord
from ko_reranker.data.store import Store, StoredObject, named
from ko_reranker.data.survey import Survey, TextShards, finish_shard
from ko_reranker.data.translation.memory import TranslationMemory
from ko_reranker.data.translation.texts import TranslationSettings
from ko_reranker.retraining.continuing import check_continuation
from ko_reranker.retraining.run import Run

# A Lambda may hold 1,024 files open, and every shard is one while the plan is made.
_MAX_SHARDS = 500
# JSON Lines of prose shrink to about a quarter.
_GZIP_RATIO = 4
# Names of objects that were not read in plan.json.
_IGNORED_KEYS = 100
# Look-ups in the translation memory at the same time.
LOOK_UPS = 16
_RESERVE_MILLISECONDS = 60_000
_ADVICE = (
    "cut it into datasets of their own under raw/ and retrain on one of them, or on a sample "
    "(docs/data.md, Larger data): what several of them have in common is translated and paid for once"
)


@dataclass(frozen=True, slots=True)
class Prices:
    """What Amazon Translate costs and yields in this account.

    Attributes:
        usd_per_million_characters: the price of the account's region.
        characters_per_second: the account's quota, for the expected duration.
        shard_bytes: about how many bytes of text one shard holds.
    """

    usd_per_million_characters: float
    characters_per_second: float
    shard_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What plan and join can take in their 15 minutes and 10 GB of disk each, with room to spare (benchmarks/pipeline.py).

    Attributes:
        gigabytes: of JSON Lines, unpacked.
        records: all objects together.
        objects: JSON Lines objects; each costs a request.
    """

    gigabytes: float = 1.5
    records: int = 1_500_000
    objects: int = 1_000

    def __str__(self) -> str:
        return f"{self.gigabytes:g} GB unpacked, {self.records:,} records or {self.objects:,} objects"


def plan(
    run: Run,
    store: Store,
    memory: TranslationMemory,
    prices: Prices,
    remaining_milliseconds: Callable[[], int],
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Write the shards and ``plan.json`` of a run and return the plan's figures.

    Args:
        run: what to plan.
        store: the data bucket.
        memory: the translation memory.
        prices: of this account.
        remaining_milliseconds: the time this invocation has left.
        limits: what is planned at all.

    Raises:
        PipelineError: when the dataset has no objects, is larger than the limits, or holds more records that break the
            contract than ``max_rejected_fraction`` allows; or when the run was planned before, and otherwise.
    """
    limits = limits or Limits()
    sources, ignored = store.datasets(f"raw/{run.dataset}/")
    size = sum(item.size * (_GZIP_RATIO if item.key.endswith(".gz") else 1) for item in sources)
    if size > limits.gigabytes * 1e9 or len(sources) > limits.objects:
        raise PipelineError(
            f"the dataset {run.dataset} has about {size / 1e9:.1f} GB in {len(sources):,} objects, and one planning "
            f"function takes at most {limits} in its 15 minutes: {_ADVICE}"
        )
    check_continuation(run, sources, store)
    survey, totals = Survey(), Counter[str]()
    shards: list[dict[str, Any]] = []
    records = _records(run, sources, store, survey, limits, remaining_milliseconds)
    with tempfile.TemporaryDirectory() as folder:
        if run.translates:
            settings = run.translation
            count = min(max(1, -(-size // prices.shard_bytes)), _MAX_SHARDS)
            with TextShards(Path(folder), settings, count, survey) as texts:
                for record in records:
                    texts.add(record)
            _refuse_too_many(run, survey)
            shards, totals = _finish_shards(run, texts.paths, settings, store, memory)
        else:
            for _ in records:
                pass
            _refuse_too_many(run, survey)
    figures = _figures(run, survey, totals, prices, len(shards))
    figures["ignored_objects"] = len(ignored)
    if ignored:
        figures["message"] += f". Not read, since only .jsonl and .jsonl.gz are: {named(ignored)}"
    details = {
        "ignored_keys": ignored[:_IGNORED_KEYS],
        "rejected_examples": survey.examples,
        "rejection_reasons": dict(survey.reasons.most_common(20)),
        "prices": asdict(prices),
        "limits": asdict(limits),
        "request": run.to_json(),
        "sources": [{"key": s.key, "bytes": s.size, "etag": s.etag} for s in sources],
    }
    store.write_json(f"{run.prefix}/plan.json", figures | details)
    return figures


def _records(
    run: Run,
    sources: list[StoredObject],
    store: Store,
    survey: Survey,
    limits: Limits,
    remaining_milliseconds: Callable[[], int],
) -> Iterator[TrainingRecord]:
    """Yield every record and stop where the limits end: a gzip's real size is known only when it is unpacked."""
    for item in sources:
        with closing(store.records(item.key)) as lines:
            try:
                for _, record in survey.records(item.key, lines):
                    yield record
                    count = survey.counts["records"]
                    if count > limits.records or (not count % 1_000 and remaining_milliseconds() < _RESERVE_MILLISECONDS):
                        raise PipelineError(
                            f"the dataset {run.dataset} has more than the {count - 1:,} records read so far, and one "
                            f"planning function takes at most {limits} in its 15 minutes: {_ADVICE}"
                        )
            except DamagedFile as error:
                raise PipelineError(f"{error}: upload {store.uri(item.key)} again") from None


def _refuse_too_many(run: Run, survey: Survey) -> None:
    """Stop a run that the join would stop, before it is paid for."""
    rejected = survey.counts["rejected_records"]
    total = rejected + survey.counts["records"]
    if not total:
        raise PipelineError(f"the dataset {run.dataset} holds no record: its objects are empty")
    if rejected > run.max_rejected_fraction * total:
        first = survey.examples[0]
        reason, times = survey.reasons.most_common(1)[0]
        raise PipelineError(
            f"{rejected} of {total} records break the contract, {rejected / total:.1%}, and max_rejected_fraction allows "
            f"{run.max_rejected_fraction:.1%}; most often ({times} times) {reason}; the first is line "
            f"{first['line']} of {first['file']}. Nothing was spent. `ko-reranker data validate FILE` lists them all"
        )


def _finish_shards(
    run: Run, paths: list[Path], settings: TranslationSettings, store: Store, memory: TranslationMemory
) -> tuple[list[dict[str, Any]], Counter[str]]:
    shards: list[dict[str, Any]] = []
    totals: Counter[str] = Counter()

    def finish(path: Path) -> tuple[Counter[str], str] | None:
        if not path.stat().st_size:
            return None
        shard = path.with_suffix(".jsonl")
        counts = finish_shard(path, shard, settings, lambda keys: memory.known(keys, look_ups))
        key = f"{run.prefix}/shards/{shard.name}"
        store.upload(shard, key)
        shard.unlink()
        return counts, key

    # While one shard is uploaded another one is looked up: both mostly wait.
    with ThreadPoolExecutor(LOOK_UPS) as look_ups, ThreadPoolExecutor(4) as pool:
        for result in pool.map(finish, paths):
            if result is not None:
                counts, key = result
                totals += counts
                shards.append({"shard": len(shards), "key": key, "texts": counts["distinct_texts"]})
    store.write_lines(f"{run.prefix}/shards/index.jsonl", b"".join(map(dump_line, shards)))
    return shards, totals


def _figures(run: Run, survey: Survey, totals: Counter[str], prices: Prices, shards: int) -> dict[str, Any]:
    def dollars(characters: int) -> float:
        return characters / 1e6 * prices.usd_per_million_characters

    counts = survey.counts
    usd = dollars(totals["characters_to_translate"])
    saved = counts["characters"] - totals["characters_to_translate"] if run.translates else 0
    figures: dict[str, Any] = {
        "records": counts["records"],
        "rejected_records": counts["rejected_records"],
        "texts": counts["texts"],
        "distinct_texts": totals["distinct_texts"],
        "texts_in_target_language": counts["texts_in_target_language"],
        "texts_without_letters": counts["texts_without_letters"],
        "known_texts": totals["known_texts"],
        "texts_to_translate": totals["texts_to_translate"],
        "characters": counts["characters"],
        "distinct_characters": totals["distinct_characters"],
        "characters_to_translate": totals["characters_to_translate"],
        "requests": totals["requests"],
        "usd": round(usd, 4),
        "usd_saved": round(max(0.0, dollars(saved)), 4),
        "expected_seconds": round(totals["characters_to_translate"] / prices.characters_per_second),
        "shards": shards,
        "shards_key": f"{run.prefix}/shards/index.jsonl",
        "within_budget": usd <= run.max_translation_usd,
    }
    return figures | {"message": _message(run, figures)}


def _message(run: Run, figures: dict[str, Any]) -> str:
    if not run.translates:
        return f"{figures['records']} records are in {run.target_language} already: nothing to translate"
    estimate = (
        f"{figures['distinct_texts']} distinct texts in {figures['records']} records, {figures['known_texts']} of them known "
        f"already; {figures['characters_to_translate']} characters to translate in {figures['requests']} requests cost about "
        f"${figures['usd']:.2f} and take about {_duration(figures['expected_seconds'])} at the account's quota"
    )
    if figures["within_budget"]:
        return estimate
    return (
        f"{estimate}, more than max_translation_usd allows (${run.max_translation_usd:.2f}): "
        "raise it in the execution input, or take a smaller dataset"
    )


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
