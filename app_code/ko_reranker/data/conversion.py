"""Other people's formats into training records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ko_reranker.data.records import RecordError, TrainingRecord, parse_record
from ko_reranker.data.tables import QUERY_NAMES, Opener, TableError, find_file, open_binary, passage_text, read_table

Format = Literal["auto", "pointwise", "triplets", "beir"]

# What a column is called elsewhere.
_DOCUMENT = ("document", "passage", "text", "context", "doc", "sentence2")
_LABEL = ("label", "relevance", "score", "rating")
_POSITIVE = ("positive", "pos")
_NEGATIVE = ("negative", "neg")


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
    path: Path, result: Conversion, *, kind: Format = "auto", threshold: float = 0.0, opener: Opener = open_binary
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
        TableError: when the input can't be of the format.
    """
    if not path.exists():
        raise TableError(f"there is no {path}")
    if kind == "beir" or (kind == "auto" and path.is_dir()):
        result.kind = "beir"
        yield from _beir(path, result, threshold, opener)
        return
    rows = read_table(path, opener)
    first = next(rows, None)
    if first is None:
        raise TableError(f"{path} holds no row")
    columns = _columns(first[1])
    found = "triplets" if "positive" in columns else "pointwise" if "label" in columns else None
    if found is None or (kind != "auto" and kind != found):
        raise TableError(
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
    corpus, queries = find_file(folder, "corpus.jsonl"), find_file(folder, "queries.jsonl")
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    chosen = next((path for path in qrels if path.stem == "train"), qrels[0] if qrels else None)
    if not (corpus and queries and chosen):
        raise TableError(f"{folder} is no BEIR folder: it needs corpus.jsonl, queries.jsonl and qrels/train.tsv")
    judged: dict[str, dict[str, float]] = {}
    for line, row in read_table(chosen, opener):
        result.rows += 1
        try:
            query, document, score = list(row.values())[:3]
            judged.setdefault(query, {})[document] = float(score)
        except (TypeError, ValueError):
            result.problems.append((chosen.name, line, "is not query-id, corpus-id, score"))
    wanted = {document for documents in judged.values() for document in documents}
    passages = {key: passage_text(row) for key, row in _by_id(corpus, opener) if key in wanted}
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
    for _, row in read_table(path, opener):
        if "_id" in row:
            yield str(row["_id"]), row


def _columns(row: dict[str, Any]) -> dict[str, str]:
    """Map our names of the columns to the row's own."""
    names = {name.lower(): name for name in row}
    meanings = {"query": QUERY_NAMES, "document": _DOCUMENT, "label": _LABEL, "positive": _POSITIVE, "negative": _NEGATIVE}
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
