"""Joining translations with the records they came from.

Memory stays bounded whatever the dataset's size: translations lie in an SQLite file, records stream past twice. The first
pass translates, splits and counts; the second fills records that have no negatives from a sample of their own split.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import dump_line, read_record_file
from ko_reranker.data.memory import TranslationSettings
from ko_reranker.data.negatives import fill_negatives
from ko_reranker.data.records import RecordError, TrainingRecord
from ko_reranker.data.splits import Split, split_of
from ko_reranker.data.store import Store, StoredObject

SPLITS: tuple[Split, ...] = ("train", "dev")
# Random negatives are drawn from a sample this large of each split's passages.
_POOL = 20_000
# What a record without negatives gets where no record of the dataset has any.
_DEFAULT_NEGATIVES = 4
_SEED = 0


class Translations:
    """The translations of a run by the key of their source text, on disk."""

    def __init__(self, path: Path, store: Store, prefix: str, settings: TranslationSettings | None) -> None:
        self._settings = settings
        self._rows = sqlite3.connect(path)
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("CREATE TABLE t (id TEXT PRIMARY KEY, text TEXT, error TEXT) WITHOUT ROWID")
        self.counts: Counter[str] = Counter()
        if settings is None:
            return
        for item in store.list(f"{prefix}/translated/"):
            if item.key.endswith(".counts.json"):
                self.counts.update(store.read_json(item.key))
            else:
                rows = ((row["id"], row.get("text"), row.get("error")) for row in store.rows(item.key))
                self._rows.executemany("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", rows)
        self._rows.commit()

    def translate(self, text: str, where: str) -> str:
        """Return the translation of a text.

        Raises:
            RecordError: naming the field and why there is none.
        """
        if self._settings is None:
            return text
        row = self._rows.execute("SELECT text, error FROM t WHERE id = ?", (self._settings.key(text),)).fetchone()
        if row is None:
            raise RecordError(where, "was not translated: its shard failed")
        if row[0] is None:
            raise RecordError(where, f"could not be translated: {row[1]}")
        return row[0]

    def record(self, record: TrainingRecord) -> TrainingRecord:
        return replace(
            record,
            query=self.translate(record.query, "query"),
            positives=tuple(self.translate(text, f"pos[{i}]") for i, text in enumerate(record.positives)),
            negatives=tuple(self.translate(text, f"neg[{i}]") for i, text in enumerate(record.negatives)),
        )

    def close(self) -> None:
        self._rows.close()


class Reservoir:
    """A uniform sample of the passages seen so far (Vitter's algorithm R), the same for the same stream."""

    def __init__(self, size: int, seed: int) -> None:
        self.items: list[str] = []
        self._size = size
        self._seen = 0
        self._random = random.Random(seed)  # noqa: S311

    def add(self, item: str) -> None:
        self._seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (slot := self._random.randrange(self._seen)) < self._size:
            self.items[slot] = item


def join(request: dict[str, Any], store: Store) -> dict[str, Any]:
    """Write the dataset of a run, its quarantine and its manifest.

    Args:
        request: the resolved request.
        store: the data bucket.

    Returns:
        Counts, and ``dataset_uri``, the prefix that holds ``train.jsonl`` and ``dev.jsonl``.

    Raises:
        PipelineError: when more records were rejected than ``max_rejected_fraction`` allows, or a split came out empty.
    """
    prefix = request["prefix"]
    sources = store.datasets(f"raw/{request['dataset']}/")
    settings = TranslationSettings.of(request) if request["translate"] else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(Translations(folder / "translations.sqlite", store, prefix, settings)) as translations:
            counts, reasons, pools, usual = _translate_and_split(request, sources, store, translations, folder)
        quarantine = _upload_quarantine(folder, store, prefix)
        _refuse_too_many(request, counts, reasons, store.uri(f"{prefix}/quarantine/") if quarantine else "")
        digests = {split: _fill_and_upload(split, folder, pools[split], usual, counts, store, prefix) for split in SPLITS}
    manifest = {
        "records": {split: counts[split] for split in SPLITS},
        "rejected_records": counts["rejected"],
        "rejection_reasons": dict(reasons.most_common(20)),
        "filled_negatives": counts["filled"],
        "translation": dict(translations.counts),
        "sha256": digests,
        "sources": [{"key": item.key, "bytes": item.size, "etag": item.etag} for item in sources],
        "request": request,
    }
    store.write_json(f"{prefix}/dataset/manifest.json", manifest)
    return {
        "train": counts["train"],
        "dev": counts["dev"],
        "rejected": counts["rejected"],
        "filled_negatives": counts["filled"],
        "translation": dict(translations.counts),
        "dataset_uri": store.uri(f"{prefix}/dataset/"),
    }


def _translate_and_split(
    request: dict[str, Any], sources: list[StoredObject], store: Store, translations: Translations, folder: Path
) -> tuple[Counter[str], Counter[str], dict[Split, Reservoir], int]:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    negatives: Counter[int] = Counter()
    pools: dict[Split, Reservoir] = {split: Reservoir(_POOL, _SEED) for split in SPLITS}
    with ExitStack() as stack:
        out = {split: stack.enter_context((folder / f"{split}.joined.jsonl").open("wb")) for split in SPLITS}
        for item in sources:
            quarantine = folder / "quarantine" / f"{item.key.removeprefix('raw/').replace('/', '__')}.jsonl"
            for line, source in store.records(item.key):
                try:
                    if isinstance(source, RecordError):
                        raise source
                    record = translations.record(source)
                except RecordError as error:
                    counts["rejected"] += 1
                    reasons[f"{_field_name(error)}: {error.reason}"] += 1
                    _quarantine(quarantine, item.key, line, source, error)
                    continue
                split = split_of(source.query, request["dev_fraction"])  # type: ignore[union-attr]
                counts[split] += 1
                negatives[len(record.negatives)] += 1
                for passage in (*record.positives, *record.negatives):
                    pools[split].add(passage)
                out[split].write(dump_line(record.to_json()))
    del negatives[0]
    usual = negatives.most_common(1)[0][0] if negatives else _DEFAULT_NEGATIVES
    return counts, reasons, pools, usual


def _field_name(error: RecordError) -> str:
    return error.field.split("[")[0]


def _quarantine(path: Path, key: str, line: int, source: TrainingRecord | RecordError, error: RecordError) -> None:
    path.parent.mkdir(exist_ok=True)
    row: dict[str, Any] = {"file": key, "line": line, "field": error.field, "reason": error.reason}
    if isinstance(source, TrainingRecord):
        row["record"] = source.to_json()
    with path.open("ab") as stream:
        stream.write(dump_line(row))


def _upload_quarantine(folder: Path, store: Store, prefix: str) -> bool:
    store.delete(f"{prefix}/quarantine/")
    files = sorted((folder / "quarantine").glob("*")) if (folder / "quarantine").exists() else []
    for path in files:
        store.upload(path, f"{prefix}/quarantine/{path.name}")
    return bool(files)


def _refuse_too_many(request: dict[str, Any], counts: Counter[str], reasons: Counter[str], quarantine: str) -> None:
    total = counts["train"] + counts["dev"] + counts["rejected"]
    share = counts["rejected"] / total if total else 0.0
    if share > request["max_rejected_fraction"]:
        reason, times = reasons.most_common(1)[0]
        raise PipelineError(
            f"{counts['rejected']} of {total} records were rejected, {share:.1%}, and max_rejected_fraction allows "
            f"{request['max_rejected_fraction']:.1%}; most often ({times} times) because {reason}. Each one stands with its "
            f"file, line and reason in {quarantine}"
        )
    for split in SPLITS:
        if not counts[split]:
            raise PipelineError(
                f"the {split} split is empty: {total} records with dev_fraction {request['dev_fraction']} are too few"
            )


def _fill_and_upload(
    split: Split, folder: Path, pool: Reservoir, usual: int, counts: Counter[str], store: Store, prefix: str
) -> str:
    path = folder / f"{split}.jsonl"
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for line in _filled(folder / f"{split}.joined.jsonl", pool.items, usual, counts):
            digest.update(line)
            out.write(line)
    store.upload(path, f"{prefix}/dataset/{path.name}")
    return digest.hexdigest()


def _filled(path: Path, pool: list[str], usual: int, counts: Counter[str]) -> Iterator[bytes]:
    for record in read_record_file(path):
        if not record.negatives:
            record = fill_negatives(record, pool, usual, _SEED)
            counts["filled"] += len(record.negatives)
        yield dump_line(record.to_json())
