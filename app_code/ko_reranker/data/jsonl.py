"""Streaming JSON Lines, plain or gzip, one object at a time."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ko_reranker.data.records import RecordError, TrainingRecord, parse_record

SUFFIXES = (".jsonl", ".jsonl.gz")
_BUFFER_BYTES = 1 << 20


def read_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line)`` of a stream; blank lines are passed over.

    Args:
        stream: the bytes as stored.
        name: the file's name; ``.gz`` means that the stream is gzip.
    """
    if name.endswith(".gz"):
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    elif not isinstance(stream, io.BufferedIOBase):
        # The body of an S3 answer: iterating over it gives blocks, and its own readline reads byte by byte.
        stream = io.BufferedReader(stream, _BUFFER_BYTES)  # type: ignore[assignment, arg-type]
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def read_records(stream: BinaryIO, name: str) -> Iterator[tuple[int, TrainingRecord | RecordError]]:
    """Yield ``(line number, record)``; a line that breaks the contract yields its error in the record's place."""
    for number, line in read_lines(stream, name):
        try:
            yield number, parse_record(json.loads(line))
        except RecordError as error:
            yield number, error
        except (ValueError, RecursionError) as error:
            yield number, RecordError("line", f"is not JSON: {error}")


def read_record_file(path: Path) -> Iterator[TrainingRecord]:
    """Yield the records of a file that must be clean, such as a joined dataset.

    Raises:
        ValueError: naming file, line, field and reason of the first record that breaks the contract.
    """
    with path.open("rb") as stream:
        for number, record in read_records(stream, path.name):
            if isinstance(record, RecordError):
                raise ValueError(f"{path.name} line {number}: {record}")
            yield record


def dump_line(row: Any) -> bytes:
    """Return one line of JSON Lines, Korean unescaped, newline included."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows to a file, gzip when it is named so, and return how many."""
    count = 0
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wb") as stream:
        for row in rows:
            stream.write(dump_line(row))
            count += 1
    return count
