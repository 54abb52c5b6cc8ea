"""Other people's formats into training records.

docs/data.md holds a sample of each, what comes of it, and what is refused; the tests run them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ko_reranker.data.conversion.account import Conversion, Format, Options
from ko_reranker.data.conversion.columns import Columns, Names, find_columns, is_header, may_be_passages
from ko_reranker.data.conversion.judged import are_ids, beir, is_mark, judged
from ko_reranker.data.conversion.rows import a_record_a_query, each_a_record
from ko_reranker.data.records import TrainingRecord
from ko_reranker.data.tables import JSON_SUFFIXES, TABLE_SUFFIXES, TableError, read_fields, read_objects, suffix_of

__all__ = ["Conversion", "Format", "Names", "Options", "convert"]

# A header's names are words, not sentences.
_NAME_LENGTH, _NAME_WORDS = 40, 4
_TRIPLET = ["query", "positive", "negative"]


def convert(path: Path, result: Conversion, options: Options | None = None) -> Iterator[TrainingRecord]:
    """Yield the training records of a file or folder in another format.

    =============  =====================================================================  =========================
    format         input                                                                  a record is
    =============  =====================================================================  =========================
    ``records``    a query with lists of positives and negatives: ours, FlagEmbedding     a row
                   (with scores), Tevatron, MIRACL, DPR
    ``pairs``      query and positive                                                     a row
    ``triplets``   query, positive and any number of negatives; MS MARCO's without names  a row
    ``pointwise``  query, document, label                                                 a query with all its rows
    ``lists``      query and a list of documents with their labels                        a row
    ``qrels``      ids and grades (TREC, BEIR), with a corpus and queries                 a query with all its rows
    ``ids``        ids of query, positive, negative, with a corpus and queries            a query with all its rows
    ``beir``       a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv              a query with all its rows
    =============  =====================================================================  =========================

    Args:
        path: the file (JSON Lines, JSON, CSV, TSV, Parquet; plain or gzip), or the folder.
        result: where rows are counted, and what is left out.
        options: how the source is to be understood.

    Raises:
        TableError: when the input can't be of the format, or could be of several: the message names the option that settles it.
    """
    options = options or Options()
    if not path.exists():
        raise TableError(f"there is no {path}")
    if options.kind == "beir" or (options.kind == "auto" and path.is_dir()):
        result.kind = "beir"
        yield from beir(path, result, options)
    elif path.is_dir():
        raise TableError(f"{path} is a folder: only --format beir reads one")
    elif options.kind in ("qrels", "ids") or options.corpus or options.queries:
        if not (options.corpus and options.queries):
            raise TableError(f"{path.name} holds ids: name their texts with --corpus and --queries")
        result.kind = options.kind
        yield from judged(path, options.corpus, options.queries, options.kind, result, options)
    else:
        yield from _rows(path, result, options)


def _rows(path: Path, result: Conversion, options: Options) -> Iterator[TrainingRecord]:
    rows = _table(path, result, options) if suffix_of(path) in TABLE_SUFFIXES else _objects(path, result, options)
    first = next(rows, None)
    if first is None and not result.rows:
        raise TableError(f"{path} holds no row")
    if first is None:
        return
    _, row, columns = first
    result.kind = kind = _kind_of(path.name, row, columns, options)
    step = a_record_a_query if kind == "pointwise" else each_a_record
    if columns.is_judged and columns.document_id:
        result.note(f"{columns.document_id} is not carried: a record has no place for a passage's id")
    if not columns.is_judged:
        for other in filter(may_be_passages, columns.others):
            result.note(f"{other} is carried as it is, and not read as passages: name it with --negative if it holds negatives")
    yield from step(path.name, itertools.chain([first], rows), result, options)


def _kind_of(name: str, row: dict[str, Any], columns: Columns, options: Options) -> str:
    """Return the format of the rows, by the columns that were found and by what stands in them.

    Raises:
        TableError: it is another one than the caller said, or a label is missing.
    """
    lists = (list, dict)
    if not columns.is_judged:
        listed = any(isinstance(row.get(column), lists) for column in (*columns.positives, *columns.negatives))
        found = "records" if listed else "triplets" if columns.negatives else "pairs"
    elif isinstance(row.get(str(columns.document)), lists) or isinstance(row.get(str(columns.label)), list):
        found = "lists"
    else:
        found = "pointwise"
        if columns.label is None:
            raise TableError(
                f"{name} has a query and {columns.document}, but no label is known: name it with --label, or say with "
                f"--positive {columns.document} that all of them are right"
            )
    similar = {"records", "pairs", "triplets"}
    if options.kind not in ("auto", found) and not {options.kind, found} <= similar:
        raise TableError(f"{name} has the columns {', '.join(map(str, row))}: that is {found}, not {options.kind}")
    return found


def _objects(path: Path, result: Conversion, options: Options) -> Iterator[tuple[int, dict[str, Any], Columns]]:
    """Yield the rows of a JSON or Parquet file with their columns, which may differ from row to row."""
    if suffix_of(path) not in (*JSON_SUFFIXES, ".parquet") and _looks_like_qrels(path, options):
        raise TableError(f"{path.name} holds ids: name their texts with --corpus and --queries")
    known: dict[tuple[str, ...], Columns] = {}
    is_judged: bool | None = None
    for line, row in read_objects(path, options.reading):
        result.rows += 1
        if isinstance(row, TableError):
            result.leave_out(path.name, line, "is not a JSON object", f" ({row})")
            continue
        names = tuple(row)
        if names not in known:
            try:
                known[names] = find_columns(names, options.names, f"{path.name} line {line}", options.kind)
            except TableError:
                if not known:
                    raise
                result.leave_out(path.name, line, "has other columns than the rows before", f": {', '.join(names)}"[:200])
                continue
        is_judged = known[names].is_judged if is_judged is None else is_judged
        if known[names].is_judged != is_judged:
            result.leave_out(path.name, line, "has other columns than the rows before", f": {', '.join(names)}"[:200])
            continue
        yield line, row, known[names]


def _looks_like_qrels(path: Path, options: Options) -> bool:
    with options.reading.opener(path) as stream:
        first = stream.readline(1_000)
    return are_ids(first.decode("utf-8", "replace").split()) and len(first.split()) == 4


def _table(path: Path, result: Conversion, options: Options) -> Iterator[tuple[int, dict[str, Any], Columns]]:
    """Yield the rows of a CSV or TSV file with their columns."""
    rows = read_fields(path, options.reading)
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    names = _header(path, first[1], second[1] if second else [], options)
    data = itertools.chain([first] if names is None else [], [second] if second else [], rows)
    if names is None:
        names = _headerless(path, [row[1] for row in (first, second) if row], options)
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise TableError(f"{path.name} has two columns of one name: {', '.join(named)}")
    columns = find_columns(names, options.names, path.name, options.kind)
    for line, fields in data:
        result.rows += 1
        if len(fields) != len(names):
            result.leave_out(path.name, line, f"has not {len(names)} fields", f" but {len(fields)}; see --quotes")
            continue
        if options.reading.quotes == "auto" and any(map(_is_quoted, fields)):
            result.note(
                "some fields stand in double quotes, which were kept as a part of the text: say --quotes yes if they are not"
            )
        yield line, dict(zip(names, fields, strict=True)), columns


def _is_quoted(field: str) -> bool:
    return len(field) > 2 and field[0] == field[-1] == '"'


def _header(path: Path, first: list[str], second: list[str], options: Options) -> list[str] | None:
    """Return the names of the columns if the first line holds them, else None.

    Raises:
        TableError: it may be a header and may be not, or it holds ids.
    """
    names = [name.strip() for name in first]
    if options.header is not None:
        return names if options.header else None
    if is_header(names, options.names):
        return names
    if are_ids(first):
        raise TableError(f"{path.name} holds ids: name their texts with --corpus and --queries")
    if _is_name_like(names) and (not second or _may_head(names, second)):
        raise TableError(
            f"{path.name} begins with {', '.join(names)[:200]}: are these its columns' names? Then say which is which with "
            "--query and --positive (and --negative), or --document and --label; if not, say --no-header"
        )
    return None


def _is_name_like(names: list[str]) -> bool:
    return all(len(name) <= _NAME_LENGTH and len(name.split()) <= _NAME_WORDS and name[-1:] not in ".?!。" for name in names)


def _may_head(names: list[str], second: list[str]) -> bool:
    """Tell whether the first line is of another kind than the second: single words, or much shorter."""
    single = all(len(name.split()) <= 1 for name in names)
    return single or sum(map(len, second)) > 2 * sum(map(len, names))


def _headerless(path: Path, rows: list[list[str]], options: Options) -> list[str]:
    """Return names for the columns of a table without any, by its first rows."""
    first = rows[0]
    if options.names.all():
        return [str(number) for number in range(1, len(first) + 1)]
    triplets = options.kind == "triplets" or (options.kind == "auto" and suffix_of(path) == ".tsv")
    if triplets and len(first) == len(_TRIPLET):
        for number, value in enumerate(first, 1):
            if options.kind == "auto" and all(is_mark(row[number - 1]) for row in rows if len(row) == len(first)):
                raise TableError(
                    f"{path.name} has three columns without names, of which number {number} holds {value.strip()!r}: that is a "
                    "label, a score or an id. Say which column is what, as in --no-header --query 1 --document 2 --label 3, or "
                    "with --format triplets that all are texts"
                )
        return _TRIPLET
    raise TableError(
        f"{path.name} has {len(first)} columns without names: number them from 1, as in --no-header --query 1 --positive 2 "
        "--negative 3 (or --document 2 --label 3)"
    )
