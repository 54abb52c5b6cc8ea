"""Other people's formats into training records."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ko_reranker.data.jsonl import read_lines
from ko_reranker.data.records import RecordError, TrainingRecord, parse_record

Format = Literal["auto", "pointwise", "triplets", "beir"]
Opener = Callable[[Path], BinaryIO]

# What a column is called elsewhere.
_QUERY = ("query", "question", "anchor", "sentence1")
_DOCUMENT = ("document", "passage", "text", "context", "doc", "sentence2")
_LABEL = ("label", "relevance", "score", "rating")
_POSITIVE = ("positive", "pos")
_NEGATIVE = ("negative", "neg")
_LONGEST_FIELD = 4 << 20


class ConversionError(ValueError):
    """The input isn't what it is taken for; the message says what it should be."""


@dataclass(slots=True)
class Conversion:
    """What a conversion met.

    Attributes:
        rows: rows read.
        problems: rows that were left out: file, line, reason.
        kind: the format that was read.
    """

    rows: int = 0
    problems: list[tuple[str, int, str]] = field(default_factory=list)
    kind: str = ""


def convert(
    path: Path, result: Conversion, *, kind: Format = "auto", threshold: float = 0.0, opener: Opener | None = None
) -> Iterator[TrainingRecord]:
    """Yield the training records of a file or folder in another format.

    =============  ==================================================================  =========================
    format         input                                                               a record is
    =============  ==================================================================  =========================
    ``pointwise``  rows of query, document, label (CSV or TSV with a header, JSONL)    a query with all its rows
    ``triplets``   rows of query, positive, negative (TSV without header, as MS        a row
                   MARCO's, CSV or TSV with one, JSONL)
    ``beir``       a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv           a query with all its rows
    =============  ==================================================================  =========================

    Args:
        path: the file, plain or gzip, or the folder.
        result: where rows and problems are counted.
        kind: the format, or ``auto`` to see from the input.
        threshold: a label above it is positive.
        opener: how to open a file, for progress.

    Raises:
        ConversionError: when the input can't be of the format.
    """
    opener = opener or (lambda file: file.open("rb"))
    if not path.exists():
        raise ConversionError(f"there is no {path}")
    if kind == "beir" or (kind == "auto" and path.is_dir()):
        result.kind = "beir"
        yield from _beir(path, result, threshold, opener)
        return
    rows = _rows(path, opener)
    first = next(rows, None)
    if first is None:
        raise ConversionError(f"{path} holds no row")
    columns = _columns(first[1])
    found = "triplets" if "positive" in columns else "pointwise" if "label" in columns else None
    if found is None or (kind != "auto" and kind != found):
        raise ConversionError(
            f"{path} has the columns {', '.join(map(str, first[1]))}: pointwise rows need query, document and label, triplets "
            "query, positive and negative"
        )
    result.kind = found
    convert_rows = _triplets if found == "triplets" else _pointwise
    yield from convert_rows(path.name, _chain(first, rows), columns, result, threshold)


def _pointwise(
    name: str, rows: Iterator[tuple[int, dict[str, Any]]], columns: dict[str, str], result: Conversion, threshold: float
) -> Iterator[TrainingRecord]:
    groups: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for line, row in rows:
        result.rows += 1
        query, document = row.get(columns["query"]), row.get(columns["document"])
        try:
            label = float(row.get(columns["label"]))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            result.problems.append((name, line, f"the label {row.get(columns['label'])!r} is not a number"))
            continue
        if not (isinstance(query, str) and query.strip() and isinstance(document, str) and document.strip()):
            result.problems.append((name, line, "the query or the document is missing or blank"))
            continue
        groups.setdefault(query, ({}, {}))[label <= threshold][document] = None
    yield from _grouped(name, groups, result)


def _grouped(
    name: str, groups: dict[str, tuple[dict[str, None], dict[str, None]]], result: Conversion
) -> Iterator[TrainingRecord]:
    for query, (positives, negatives) in groups.items():
        if not positives:
            result.problems.append((name, 0, f"no positive for a query with {len(negatives)} negatives"))
            continue
        record = _record(name, 0, query, list(positives), [text for text in negatives if text not in positives], result)
        if record:
            yield record


def _triplets(
    name: str, rows: Iterator[tuple[int, dict[str, Any]]], columns: dict[str, str], result: Conversion, threshold: float
) -> Iterator[TrainingRecord]:
    for line, row in rows:
        result.rows += 1
        positive, negative = row.get(columns["positive"]), row.get(columns.get("negative", ""))
        positives = positive if isinstance(positive, list) else [positive]
        negatives = negative if isinstance(negative, list) else [negative] if negative else []
        record = _record(name, line, row.get(columns["query"]), positives, negatives, result)
        if record:
            yield record


def _record(name: str, line: int, query: Any, positives: list, negatives: list, result: Conversion) -> TrainingRecord | None:
    try:
        return parse_record({"query": query, "pos": positives, "neg": negatives})
    except RecordError as error:
        result.problems.append((name, line, str(error)))
        return None


def _beir(folder: Path, result: Conversion, threshold: float, opener: Opener) -> Iterator[TrainingRecord]:
    corpus, queries = _either(folder, "corpus.jsonl"), _either(folder, "queries.jsonl")
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    chosen = next((path for path in qrels if path.stem == "train"), qrels[0] if qrels else None)
    if not (corpus and queries and chosen):
        raise ConversionError(f"{folder} is no BEIR folder: it needs corpus.jsonl, queries.jsonl and qrels/train.tsv")
    judged: dict[str, dict[str, float]] = {}
    for line, row in _rows(chosen, opener):
        result.rows += 1
        try:
            query, document, score = list(row.values())[:3]
            judged.setdefault(query, {})[document] = float(score)
        except (TypeError, ValueError):
            result.problems.append((chosen.name, line, "is not query-id, corpus-id, score"))
    wanted = {document for documents in judged.values() for document in documents}
    passages = {key: _passage(row) for key, row in _by_id(corpus, opener) if key in wanted}
    groups: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for key, row in _by_id(queries, opener):
        for document, score in judged.pop(key, {}).items():
            if document in passages:
                groups.setdefault(row.get("text", ""), ({}, {}))[score <= threshold][passages[document]] = None
            else:
                result.problems.append((chosen.name, 0, f"corpus.jsonl has no {document}"))
    result.problems += [(chosen.name, 0, f"queries.jsonl has no {query}") for query in judged]
    yield from _grouped(chosen.name, groups, result)


def _by_id(path: Path, opener: Opener) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, row in _rows(path, opener):
        if "_id" in row:
            yield str(row["_id"]), row


def _passage(row: dict[str, Any]) -> str:
    title, text = (row.get("title") or "").strip(), (row.get("text") or "").strip()
    return f"{title}\n{text}" if title and text else title or text


def _either(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _rows(path: Path, opener: Opener) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, row)`` of a JSONL, CSV or TSV file; a TSV without a header has the columns of a triplet."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    with opener(path) as stream:
        if suffix in (".jsonl", ".json"):
            for number, line in read_lines(stream, path.name):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ConversionError(f"{path.name} line {number} is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ConversionError(f"{path.name} line {number} is not a JSON object")
                yield number, row
        elif suffix in (".csv", ".tsv"):
            yield from _table(stream, path, "," if suffix == ".csv" else "\t")
        else:
            raise ConversionError(f"{path.name} is none of .jsonl, .csv, .tsv (or the same with .gz)")


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
        if names[0] not in (*_QUERY, "query-id", "query_id", "qid") and len(header) == 3:
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


def _columns(row: dict[str, Any]) -> dict[str, str]:
    """Map our names of the columns to the row's own."""
    names = {name.lower(): name for name in row}
    meanings = {"query": _QUERY, "document": _DOCUMENT, "label": _LABEL, "positive": _POSITIVE, "negative": _NEGATIVE}
    found = {
        meaning: names[next(option for option in options if option in names)]
        for meaning, options in meanings.items()
        if any(option in names for option in options)
    }
    if "query" not in found:
        return {}
    # A label belongs to a document.
    return found if "document" in found else {key: value for key, value in found.items() if key != "label"}


def _chain(
    first: tuple[int, dict[str, Any]], rest: Iterator[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    yield first
    yield from rest
