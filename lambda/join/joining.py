"""Joining translations with the records they came from.

Every record of the dataset comes out exactly once: in train, in dev, in quarantine with its reason, or among the duplicates
with where the record stands that it repeats. Memory stays bounded whatever the texts' size: translations lie in a file, and
records stream past three times. The first pass translates and ties groups, the second splits and drops negatives that are
positives, the third fills records that have no negatives from a sample of their own split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sampling import Reservoir
from translated import Translations

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import DamagedFile, dump_line
from ko_reranker.data.negatives import fill_negatives
from ko_reranker.data.records import RecordError, TrainingRecord, parse_record
from ko_reranker.data.splits import Groups, Split, fingerprint, split_of
from ko_reranker.data.store import Store, StoredObject
from ko_reranker.retraining.continuing import changed_source
from ko_reranker.retraining.run import Run

SPLITS: tuple[Split, ...] = ("train", "dev")
# Random negatives are drawn from a sample this large of each split's passages.
_POOL = 20_000
# What a record without negatives gets where no record of the dataset has any.
_DEFAULT_NEGATIVES = 4
_SEED = 0


@dataclass(slots=True)
class _Work:
    """What the passes hand on.

    Attributes:
        folder: for the files between them.
        groups: which records must stay on one side.
        counts: train, dev, rejected, duplicates, dropped negatives and so on.
        reasons: why records were rejected, and how often.
        answers: fingerprints of every query with each of its positives, from all its records.
        first_seen: where a record was met first, by its fingerprint.
        negatives: how many records have how many negatives.
        pools: a sample of each split's passages.
    """

    folder: Path
    groups: Groups
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    answers: set[int] = field(default_factory=set)
    first_seen: dict[int, int] = field(default_factory=dict)
    negatives: Counter[int] = field(default_factory=Counter)
    pools: dict[Split, Reservoir] = field(default_factory=lambda: {split: Reservoir(_POOL, _SEED) for split in SPLITS})


def join(run: Run, store: Store) -> dict[str, Any]:
    """Write the dataset of a run, its quarantine and its manifest.

    Args:
        run: what to join.
        store: the data bucket.

    Returns:
        Counts, and ``dataset_uri``, the prefix that holds ``train.jsonl`` and ``dev.jsonl``.

    Raises:
        PipelineError: when the dataset changed since it was planned, when more records were rejected than
            ``max_rejected_fraction`` allows, or when a split came out empty.
    """
    prefix = run.prefix
    sources = _planned_sources(run, store)
    with TemporaryDirectory() as name:
        work = _Work(Path(name), Groups(run.dev_fraction))
        with closing(Translations(work.folder, store, prefix, run.translation if run.translates else None)) as translations:
            _translate_records(sources, store, translations, work)
        _split_records(work)
        quarantine = _upload_quarantine(work.folder, store, prefix)
        _refuse_too_many(run, work, store.uri(f"{prefix}/quarantine/") if quarantine else "")
        digests = {split: _fill_and_upload(split, work, store, prefix) for split in SPLITS}
    counts = work.counts
    sizes = work.groups.sizes()
    summary = {
        "train": counts["train"],
        "dev": counts["dev"],
        "rejected": counts["rejected"],
        "duplicates": counts["duplicates"],
        "filled_negatives": counts["filled"],
        "dropped_negatives": counts["dropped_negatives"],
        "kept_texts": dict(translations.kept),
        "translation": dict(translations.counts),
    }
    manifest = summary | {
        "rejection_reasons": dict(work.reasons.most_common(20)),
        "dropped_positives": counts["dropped_positives"],
        "split": {
            "dev_fraction": run.dev_fraction,
            "groups": sum(sizes.values()),
            "largest_group": max(sizes),
            "records_on_the_side_of_their_group": counts["moved"],
        },
        "sha256": digests,
        "sources": [
            {"key": item.key, "bytes": item.size, "etag": item.etag, "version": store.version(item.key)} for item in sources
        ],
        "request": run.to_json(),
    }
    store.write_json(f"{prefix}/dataset/manifest.json", manifest)
    return summary | {"dataset_uri": store.uri(f"{prefix}/dataset/")}


def _planned_sources(run: Run, store: Store) -> list[StoredObject]:
    """The objects of the dataset, as long as they are what was planned and translated."""
    sources, _ = store.datasets(f"raw/{run.dataset}/")
    changed = changed_source(sources, store.read_json(f"{run.prefix}/plan.json")["sources"])
    if changed:
        raise PipelineError(
            f"{store.uri(changed)} was added, removed or changed since this run was planned: start a new execution "
            "(what is translated is not paid for again)"
        )
    return sources


# ---------------------------------------------------------------- first pass: translations into records


def _translate_records(sources: list[StoredObject], store: Store, translations: Translations, work: _Work) -> None:
    """Write every good record with the handle of its group to `joined`, the others into quarantine."""
    with (work.folder / "joined").open("wb") as out:
        for number, item in enumerate(sources):
            try:
                for line, source in store.records(item.key):
                    try:
                        if isinstance(source, RecordError):
                            raise source
                        record = _without_repetitions(translations.record(source), work.counts)
                    except RecordError as error:
                        work.counts["rejected"] += 1
                        work.reasons[f"{error.field.split('[')[0]}: {error.reason}"] += 1
                        _quarantine(work.folder, item.key, line, source, error)
                        continue
                    first = work.first_seen.setdefault(_fingerprint(record), number << 32 | line)
                    if first != number << 32 | line:
                        work.counts["duplicates"] += 1
                        where = f"repeats line {first & 0xFFFFFFFF} of {sources[first >> 32].key}"
                        _quarantine(work.folder, item.key, line, source, RecordError("record", where), "duplicates")
                        continue
                    handle = work.groups.add(source.query, record.query, record.positives)
                    work.answers.update(fingerprint(record.query, positive) for positive in record.positives)
                    own = split_of(source.query, work.groups.dev_fraction)
                    out.write(b"%d %s " % (handle, own.encode()) + dump_line(record.to_json()))
            except DamagedFile as error:
                raise PipelineError(f"{error}: upload {store.uri(item.key)} again") from None
    work.first_seen.clear()


def _without_repetitions(record: TrainingRecord, counts: Counter[str]) -> TrainingRecord:
    """A record whose positives are all different; its teacher's scores stay with their passages."""
    indexes = list({fingerprint(text): index for index, text in reversed(list(enumerate(record.positives)))}.values())[::-1]
    if len(indexes) == len(record.positives):
        return record
    counts["dropped_positives"] += len(record.positives) - len(indexes)
    scores = record.positive_scores
    return replace(
        record,
        positives=tuple(record.positives[index] for index in indexes),
        positive_scores=scores and tuple(scores[index] for index in indexes),
    )


def _fingerprint(record: TrainingRecord) -> int:
    return fingerprint(record.query, "pos", *record.positives, "neg", *record.negatives)


def _quarantine(
    folder: Path, key: str, line: int, source: TrainingRecord | RecordError, error: RecordError, below: str = ""
) -> None:
    path = folder / "quarantine" / below / f"{key.removeprefix('raw/').replace('/', '__')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {"file": key, "line": line, "field": error.field, "reason": error.reason}
    if isinstance(source, TrainingRecord):
        row["record"] = source.to_json()
    with path.open("ab") as stream:
        stream.write(dump_line(row))


def _upload_quarantine(folder: Path, store: Store, prefix: str) -> bool:
    store.delete(f"{prefix}/quarantine/")
    root = folder / "quarantine"
    files = sorted(path for path in root.rglob("*.jsonl") if path.is_file())
    for path in files:
        store.upload(path, f"{prefix}/quarantine/{path.relative_to(root).as_posix()}")
    return bool(files)


# ---------------------------------------------------------------- second pass: sides and negatives


def _split_records(work: _Work) -> None:
    joined = work.folder / "joined"
    with joined.open("rb") as lines, ExitStack() as stack:
        out = {split: stack.enter_context((work.folder / f"{split}.split.jsonl").open("wb")) for split in SPLITS}
        for line in lines:
            handle, own, row = line.split(b" ", 2)
            split = work.groups.split(int(handle))
            record = _without_false_negatives(parse_record(json.loads(row)), work)
            work.counts[split] += 1
            work.counts["moved"] += own.decode() != split
            work.negatives[len(record.negatives)] += 1
            for passage in (*record.positives, *record.negatives):
                work.pools[split].add(passage)
            out[split].write(dump_line(record.to_json()))
    joined.unlink()


def _without_false_negatives(record: TrainingRecord, work: _Work) -> TrainingRecord:
    """A record without negatives that answer its query in this or another record, are its query, or stand there twice."""
    seen = {fingerprint(record.query)}
    indexes = []
    for index, text in enumerate(record.negatives):
        own = fingerprint(text)
        if own not in seen and fingerprint(record.query, text) not in work.answers:
            indexes.append(index)
        seen.add(own)
    work.counts["dropped_negatives"] += len(record.negatives) - len(indexes)
    return record.with_negatives_at(indexes)


def _refuse_too_many(run: Run, work: _Work, quarantine: str) -> None:
    counts = work.counts
    total = counts["train"] + counts["dev"] + counts["rejected"]
    share = counts["rejected"] / total if total else 0.0
    if share > run.max_rejected_fraction:
        reason, times = work.reasons.most_common(1)[0]
        raise PipelineError(
            f"{counts['rejected']} of {total} records were rejected, {share:.1%}, and max_rejected_fraction allows "
            f"{run.max_rejected_fraction:.1%}; most often ({times} times) because {reason}. Each one stands with its "
            f"file, line and reason in {quarantine}"
        )
    for split in SPLITS:
        if not counts[split]:
            raise PipelineError(
                f"the {split} split is empty: {total} records with dev_fraction {run.dev_fraction} are too few, or too "
                "many of them are tied to each other by shared queries and positives"
            )


# ---------------------------------------------------------------- third pass: records without negatives


def _fill_and_upload(split: Split, work: _Work, store: Store, prefix: str) -> str:
    path = work.folder / f"{split}.jsonl"
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for line in _filled(work.folder / f"{split}.split.jsonl", work.pools[split].items, work):
            digest.update(line)
            out.write(line)
    (work.folder / f"{split}.split.jsonl").unlink()
    store.upload(path, f"{prefix}/dataset/{path.name}")
    path.unlink()
    return digest.hexdigest()


def _filled(path: Path, pool: list[str], work: _Work) -> Iterator[bytes]:
    counted = {count: times for count, times in work.negatives.items() if count}
    usual = max(counted, key=lambda count: counted[count]) if counted else _DEFAULT_NEGATIVES
    with path.open("rb") as lines:
        for line in lines:
            # Quotes within a text are escaped: no text can look like this, and most records are spared the parsing.
            if b'"neg":[]' in line:
                record = parse_record(json.loads(line))
                count = len(record.negatives) or usual
                filled = fill_negatives(record, pool, count, _SEED, partial(_answers, work.answers, record.query))
                work.counts["filled"] += len(filled.negatives) - len(record.negatives)
                line = dump_line(filled.to_json())
            yield line


def _answers(answers: set[int], query: str, passage: str) -> bool:
    return fingerprint(query, passage) in answers
