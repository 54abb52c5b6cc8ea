"""The translations of a run, looked up by the text they translate; a dozen bytes of memory each, the rest on disk."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ko_reranker.data.records import RecordError, TrainingRecord
from ko_reranker.data.store import Store
from ko_reranker.data.translation.texts import TranslationSettings
from ko_reranker.text import is_blank

# A line's offset in the file takes the lower bits of an entry, the start of its key the upper ones.
_OFFSET_BITS = 40


class Translations:
    """A run's translated texts; close it to free the file.

    Args:
        folder: for the file.
        store: the data bucket.
        prefix: of the run.
        settings: of the translation, or None when nothing was to be translated.
    """

    def __init__(self, folder: Path, store: Store, prefix: str, settings: TranslationSettings | None) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self._settings = settings
        self._keys, self._offsets = array("Q"), array("Q")
        self._file: BinaryIO | None = None
        self._path = folder / "translations.jsonl"
        if settings is not None:
            self._load(folder, store, prefix)

    def _load(self, folder: Path, store: Store, prefix: str) -> None:
        entries: list[int] = []
        offset = 0
        with self._path.open("wb") as out:
            for item in store.objects(f"{prefix}/translated/"):
                if item.key.endswith(".counts.json"):
                    self.counts.update(store.read_json(item.key))
                    continue
                part = folder / "part.jsonl"
                store.download(item.key, part)
                with part.open("rb") as lines:
                    for line in lines:
                        # Every row begins {"id":"<64 hexadecimal digits>"
                        entries.append(int(line[7:23], 16) << _OFFSET_BITS | offset)
                        out.write(line)
                        offset += len(line)
                part.unlink()
        entries.sort()
        self._keys = array("Q", (entry >> _OFFSET_BITS for entry in entries))
        self._offsets = array("Q", (entry & ((1 << _OFFSET_BITS) - 1) for entry in entries))
        # Read, not mapped: a mapped file would count as the function's memory.
        self._file = self._path.open("rb")

    def translate(self, text: str, where: str) -> str:
        """Return the translation of a text, or the text where there is nothing to translate.

        Raises:
            RecordError: naming the field and why there is none.
        """
        if self._settings is None:
            return text
        treatment = self._settings.treatment(text)
        if treatment != "translate":
            self.kept[treatment] += 1
            return text
        error = None
        for row in self._rows(self._settings.key(text)):
            # Two invocations of one shard may both have left a row; the one that succeeded counts.
            if "text" in row:
                if is_blank(row["text"]):
                    raise RecordError(where, "could not be translated: came back empty")
                return row["text"]
            error = row["error"]
        raise RecordError(
            where, "was not translated: its shard failed" if error is None else f"could not be translated: {error}"
        )

    def record(self, record: TrainingRecord) -> TrainingRecord:
        """Return a record with every text translated."""
        return replace(
            record,
            query=self.translate(record.query, "query"),
            positives=tuple(self.translate(text, f"pos[{i}]") for i, text in enumerate(record.positives)),
            negatives=tuple(self.translate(text, f"neg[{i}]") for i, text in enumerate(record.negatives)),
        )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _rows(self, key: str) -> list[dict[str, str]]:
        start = int(key[:16], 16)
        index = bisect_left(self._keys, start)
        rows = []
        while index < len(self._keys) and self._keys[index] == start and self._file is not None:
            self._file.seek(self._offsets[index])
            row = json.loads(self._file.readline())
            if row["id"] == key:
                rows.append(row)
            index += 1
        return rows
