"""Rows of other people's files: JSON Lines, CSV and TSV, plain or gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ko_reranker.data.jsonl import read_lines

Opener = Callable[[Path], BinaryIO]

# What the column of the query is called.
QUERY_NAMES = ("query", "question", "anchor", "sentence1")
_ID_NAMES = ("query-id", "query_id", "qid")
_LONGEST_FIELD = 4 << 20


class TableError(ValueError):
    """The input isn't what it is taken for; the message says what it should be."""


def open_binary(path: Path) -> BinaryIO:
    """Open a file as it is stored."""
    return path.open("rb")


def read_table(path: Path, opener: Opener = open_binary) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, row)`` of a JSONL, CSV or TSV file; a TSV without a header has the columns of a triplet.

    Args:
        path: the file, whose name tells the format; ``.gz`` may follow.
        opener: how to open it, for progress.

    Raises:
        TableError: naming file and line.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    with opener(path) as stream:
        if suffix in (".jsonl", ".json"):
            for number, line in read_lines(stream, path.name):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise TableError(f"{path.name} line {number} is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise TableError(f"{path.name} line {number} is not a JSON object")
                yield number, row
        elif suffix in (".csv", ".tsv"):
            yield from _table(stream, path, "," if suffix == ".csv" else "\t")
        else:
            raise TableError(f"{path.name} is none of .jsonl, .csv, .tsv (or the same with .gz)")


def _table(stream: BinaryIO, path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    raw = gzip.GzipFile(fileobj=stream) if path.name.endswith(".gz") else stream
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")  # type: ignore[arg-type]
    # Quotes mean nothing in MS MARCO's TSV files.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with _long_fields():
        reader = csv.reader(text, delimiter=delimiter, quoting=quoting)
        header = next(reader, None)
        if header is None:
            return
        names = [name.strip().lower() for name in header]
        if names[0] not in (*QUERY_NAMES, *_ID_NAMES) and len(header) == 3:
            names = ["query", "positive", "negative"]
            yield 1, dict(zip(names, header, strict=True))
        for row in reader:
            if row:
                yield reader.line_num, dict(zip(names, row, strict=False))


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(min(_LONGEST_FIELD, sys.maxsize))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def passage_text(row: dict[str, Any]) -> str:
    """Return the text of a row of a BEIR corpus, under its title if it has one."""
    title, text = (row.get("title") or "").strip(), (row.get("text") or "").strip()
    return f"{title}\n{text}" if title and text else title or text


def find_file(folder: Path, name: str) -> Path | None:
    """Return a folder's file of a name, plain or gzip."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
