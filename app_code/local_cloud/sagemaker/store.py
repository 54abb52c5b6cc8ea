"""What SageMaker remembers: one JSON file, written after every change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KINDS = (
    "training_jobs",
    "processing_jobs",
    "models",
    "endpoint_configs",
    "endpoints",
    "model_package_groups",
    "model_packages",
    "scalable_targets",
    "tags",
)
Record = dict[str, Any]


class Store:
    """Records by kind and name.

    Records are plain JSON values; members whose name starts with an underscore are ours and never shown to a caller.
    Reading is free; every change happens inside :meth:`change`, which serialises writers and saves.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._records: dict[str, dict[str, Record]] = {kind: {} for kind in KINDS}
        if file.exists():
            for kind, records in json.loads(file.read_text(encoding="utf-8")).items():
                self._records[kind] = records

    def all(self, kind: str) -> dict[str, Record]:
        """The records of a kind by name; change them inside :meth:`change` only."""
        return self._records[kind]

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock and save afterwards."""
        with self._lock:
            yield
            self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(self._records), encoding="utf-8")
        temporary.replace(self._file)


def shown(record: Record) -> Record:
    """The record as a Describe call shows it."""
    return {name: value for name, value in record.items() if not name.startswith("_") and value is not None}
