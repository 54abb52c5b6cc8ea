"""Rows of other people's files: JSON Lines, JSON arrays, CSV, TSV and Parquet, plain or gzip, in any encoding that is named."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from ko_reranker.data.jsonl import MAX_LINE_BYTES

Opener = Callable[[Path], BinaryIO]
Quotes = Literal["auto", "yes", "no"]
Row = tuple[int, Any]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv")
_BLOCK = 1 << 20
_HANGUL = re.compile("[가-힣]{2}")


class TableError(ValueError):
    """The input isn't what it is taken for; the message says what it should be."""


def open_binary(path: Path) -> BinaryIO:
    """Open a file as it is stored."""
    return path.open("rb")


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    Attributes:
        opener: opens a file, for progress.
        encoding: of texts; None is UTF-8, with or without a byte-order mark.
        quotes: whether fields of a table may stand in double quotes: ``auto`` is yes for CSV, and for TSV when its first line
            has them (in MS MARCO's they are a part of the text).
    """

    opener: Opener = open_binary
    encoding: str | None = None
    quotes: Quotes = "auto"


_USUAL = Reading()


def suffix_of(path: Path) -> str:
    """Return what a file's name says it is, such as ``.csv``; ``.gz`` may follow in the name."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def read_table(path: Path, reading: Reading = _USUAL) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, row)`` of a file whose every row must be good; a table's first line names its columns.

    Raises:
        TableError: naming file and line.
    """
    if suffix_of(path) in TABLE_SUFFIXES:
        rows = read_fields(path, reading)
        _, names = next(rows, (0, []))
        names = [name.strip().lower() for name in names]
        yield from ((line, dict(zip(names, fields, strict=False))) for line, fields in rows)
        return
    for line, row in read_objects(path, reading):
        if isinstance(row, TableError):
            raise row
        yield line, row


def read_objects(path: Path, reading: Reading = _USUAL) -> Iterator[tuple[int, dict[str, Any] | TableError]]:
    """Yield ``(line or row number, object)`` of a JSON or Parquet file; a line that is none yields its error instead.

    Raises:
        TableError: when the file as a whole can't be read.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    if suffix not in JSON_SUFFIXES:
        raise TableError(_no_such(path))
    with open_text(path, reading, newline="\n") as stream:
        start = stream.read(_BLOCK)
        if start.lstrip()[:1] == "[" or (suffix == ".json" and not _is_lines(start)):
            values: Iterator[tuple[int, Any]] = _json_values(path.name, start, stream)
        else:
            values = _json_lines(path.name, start, stream)
        for number, value in values:
            good = isinstance(value, (dict, TableError))
            yield number, value if good else TableError(f"{path.name} line {number} is not a JSON object")


def read_fields(path: Path, reading: Reading = _USUAL) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, fields)`` of a CSV or TSV file, its header included; blank lines are passed over.

    Raises:
        TableError: naming file and line.
    """
    suffix = suffix_of(path)
    if suffix not in TABLE_SUFFIXES:
        raise TableError(_no_such(path))
    with open_text(path, reading, newline="") as stream, _long_fields():
        first = stream.readline(MAX_LINE_BYTES)
        delimiter = _delimiter(first, suffix)
        quoted = reading.quotes == "yes" or (reading.quotes == "auto" and (suffix == ".csv" or first.startswith('"')))
        lines = itertools.chain([first], stream)
        # Without `strict`, a quote that nobody closes takes in all rows behind it.
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
        start = 1
        try:
            for fields in reader:
                start = reader.line_num + 1
                if any(fields):
                    yield reader.line_num, fields
        except csv.Error as error:
            advice = (
                "; close its quotes and double those inside, or say --quotes no if they belong to the text" if quoted else ""
            )
            raise TableError(f"{path.name}: the row that begins in line {start} can't be read: {error}{advice}") from None


@contextmanager
def open_text(path: Path, reading: Reading = _USUAL, *, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file as text, unpacked, and turn what goes wrong in reading it into a `TableError` that says what to do."""
    encoding = reading.encoding or "utf-8-sig"
    try:
        "a".encode(encoding)  # `codecs.lookup` finds base64, too
    except (LookupError, ValueError):
        raise TableError(f"there is no encoding {encoding!r}: try cp949, utf-16 or utf-8") from None
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    try:
        with reading.opener(path) as stored:
            raw = gzip.GzipFile(fileobj=stored) if path.name.lower().endswith(".gz") else stored
            yield io.TextIOWrapper(raw, encoding=encoding, newline=newline)
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path.name} can't be read as {reading.encoding or 'UTF-8'}: {_hint(error.object, reading)}"
        ) from None
    except UnicodeError as error:  # UTF-16 without its mark
        raise TableError(f"{path.name} is not {encoding}: {error}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TableError(f"{path.name} can't be read, its gzip is damaged or cut off: {error}") from None


def _hint(data: bytes, reading: Reading) -> str:
    """Return what an unreadable file may be, and the option that says so."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or data[:2000].count(0) > len(data[:2000]) // 4:
        order = "" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "-le"
        return f"it is UTF-16, it seems; save it as UTF-8, or tell `data convert` with --encoding utf-16{order}"
    decoded = data.decode("cp949", "replace")
    if reading.encoding is None and _HANGUL.search(decoded) and decoded.count("\ufffd") <= len(decoded) // 1000 + 1:
        return (
            "it is CP949 (EUC-KR, as Korean Windows and Excel write it), it seems; save it as UTF-8, or tell `data convert` "
            "with --encoding cp949"
        )
    return "save it as UTF-8, or tell `data convert` what it is with --encoding, such as cp949 (Korean Windows) or utf-16"


def _no_such(path: Path) -> str:
    if suffix_of(path) in (".xlsx", ".xls"):
        return f"{path.name} is a workbook: save the sheet as CSV UTF-8"
    return f"{path.name} is none of .jsonl, .csv, .tsv, .json, .ndjson (or the same with .gz), .parquet"


# ---------------------------------------------------------------- JSON


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _is_lines(start: str) -> bool:
    """Tell whether the first line is a value by itself."""
    first = start.lstrip().partition("\n")[0]
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(name: str, start: str, stream: TextIO) -> Iterator[tuple[int, Any]]:
    number = 0
    # The block ends within a line, which the stream goes on with.
    *lines, rest = start.split("\n")
    for line in itertools.chain(lines, [rest + stream.readline(MAX_LINE_BYTES + 1)], iter(lambda: _line(stream), "")):
        number += 1
        if not line.strip():
            continue
        if len(line) > MAX_LINE_BYTES:
            yield number, TableError(f"{name} line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
            continue
        try:
            yield number, json.loads(line, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            yield number, TableError(f"{name} line {number} is not JSON: {error}")


def _line(stream: TextIO) -> str:
    line = stream.readline(MAX_LINE_BYTES + 1)
    while len(line) > MAX_LINE_BYTES and not line.endswith("\n"):
        rest = stream.readline(MAX_LINE_BYTES)
        if not rest or rest.endswith("\n"):
            break
    return line


def _json_values(name: str, buffer: str, stream: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield the values of an array, or of a file of values one after the other; only one of them is in memory."""
    decoder = json.JSONDecoder(parse_constant=_constant)
    buffer = buffer.lstrip()
    is_array = buffer.startswith("[")
    buffer, number, at_end = buffer[is_array:], 0, False
    while True:
        buffer = buffer.lstrip(" \t\r\n," if is_array and number else " \t\r\n")
        if is_array and buffer.startswith("]"):
            return
        try:
            value, end = decoder.raw_decode(buffer) if buffer else (None, 0)
        except (ValueError, RecursionError) as error:
            value, end, problem = None, 0, str(error)
        else:
            problem = "it ends early"
        # A number may go on behind the block; anything else that is whole is done.
        if end and (end < len(buffer) or at_end):
            number += 1
            buffer = buffer[end:]
            yield number, value
            continue
        if at_end:
            if buffer or is_array:
                raise TableError(f"{name} is not JSON after row {number}: {problem}")
            return
        if len(buffer) > MAX_LINE_BYTES:
            raise TableError(
                f"{name} is no list of rows: row {number + 1} is not JSON, or longer than {MAX_LINE_BYTES >> 20} MiB; "
                "write a row a line (JSON Lines)"
            )
        block = stream.read(_BLOCK)
        buffer, at_end = buffer + block, not block


# ---------------------------------------------------------------- Parquet


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise TableError(f"{path.name} is Parquet, which takes pyarrow to read: pip install 'ko-reranker[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise TableError(f"{path.name} can't be read after row {number}: {str(error).splitlines()[0]}") from None


# ---------------------------------------------------------------- tables


def _delimiter(first: str, suffix: str) -> str:
    """Return what separates the fields: what the name says, unless the first line has none of it and one of another."""
    usual = "," if suffix == ".csv" else "\t"
    others = [mark for mark in "\t;|," if mark in first]
    return others[0] if usual not in first and len(others) == 1 and suffix == ".csv" else usual


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(min(MAX_LINE_BYTES, sys.maxsize))
    try:
        yield
    finally:
        csv.field_size_limit(before)


# ---------------------------------------------------------------- BEIR


def passage_text(row: dict[str, Any]) -> str:
    """Return the text of a row of a BEIR corpus, under its title if it has one; "" where there is none."""
    title, text = _string(row.get("title")), _string(row.get("text"))
    return f"{title}\n{text}" if title and text else title or text


def find_file(folder: Path, name: str) -> Path | None:
    """Return a folder's file of a name, plain or gzip."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _string(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
