"""Streaming JSON Lines, plain or gzip, one object at a time; and a JSON file for people to read."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ko_reranker.data.records import RecordError, TrainingRecord, parse_record

SUFFIXES = (".jsonl", ".jsonl.gz")
# A longer line is no record: a file without line breaks must not fill the memory.
MAX_LINE_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 20


class DamagedFile(ValueError):
    """A file ends early or isn't the gzip its name promises; nothing after that place can be read."""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


# Python's own decoder lets NaN and Infinity pass, which nobody else can read.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line)`` of a stream; blank lines are passed over.

    A line longer than `MAX_LINE_BYTES` is cut off there.

    Args:
        stream: the bytes as stored.
        name: the file's name; ``.gz`` means that the stream is gzip.

    Raises:
        DamagedFile: naming the file, when its gzip is broken or cut off.
    """
    if name.endswith(".gz"):
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if not isinstance(stream, io.BufferedReader):
        # The body of an S3 answer: iterating over it gives blocks, and its own readline reads byte by byte.
        stream = io.BufferedReader(stream, _BUFFER_BYTES)  # type: ignore[type-var]
    number = 0
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(stream)
            if not line.isspace():
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFile(f"{name} can't be read after line {number}: {error}") from None


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def read_records(stream: BinaryIO, name: str) -> Iterator[tuple[int, TrainingRecord | RecordError]]:
    """Yield ``(line number, record)``; a line that breaks the contract yields its error in the record's place.

    Raises:
        DamagedFile: when the file can't be read to its end.
    """
    for number, line in read_lines(stream, name):
        try:
            yield number, parse_line(line)
        except RecordError as error:
            yield number, error


def parse_line(line: bytes) -> TrainingRecord:
    """Return the record of one line.

    Raises:
        RecordError: the line breaks the contract.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RecordError("line", f"is longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        return parse_record(_DECODER.decode(line.decode().strip()))
    except RecordError:
        raise
    except UnicodeDecodeError:
        raise RecordError("line", "is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RecordError("line", f"is not JSON: {_what(error)}") from None


def _what(error: Exception) -> str:
    # A decoder's own message ends in a place, which would make a reason of its own of every line.
    return error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)


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


def read_rows(path: Path) -> Generator[Any, None, None]:
    """Yield the objects of a file that the pipeline itself wrote."""
    with path.open("rb") as stream:
        for _, line in read_lines(stream, path.name):
            yield json.loads(line)


def dump_line(row: Any) -> bytes:
    """Return one line of JSON Lines, Korean unescaped, newline included."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write an object as indented JSON, Korean unescaped."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows to a file, gzip when it is named so, and return how many."""
    count = 0
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wb") as stream:
        for row in rows:
            stream.write(dump_line(row))
            count += 1
    return count
