"""Judgements that hold ids only (BEIR, TREC qrels, triples of ids), with the texts from a corpus and from queries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ko_reranker.data.conversion.account import Conversion, Options
from ko_reranker.data.conversion.columns import is_header, role_of
from ko_reranker.data.conversion.rows import Judged, is_right, records_of
from ko_reranker.data.conversion.values import Passage, label_of
from ko_reranker.data.records import TrainingRecord
from ko_reranker.data.tables import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    TableError,
    find_file,
    open_text,
    passage_text,
    read_fields,
    read_objects,
    suffix_of,
)
from ko_reranker.text import is_blank

_ID = re.compile(r"[\w.:/#-]{1,64}", re.ASCII)


def are_ids(fields: list[str]) -> bool:
    """Tell whether a line holds ids: three or four words of which every one has a digit, or only the first has none."""
    return len(fields) in (3, 4) and all(map(_is_id, fields))


def is_mark(field: str) -> bool:
    """Tell whether a field of a table is no text but an id, a label or a score."""
    return _is_id(field) or label_of(field) is not None


def _is_id(field: str) -> bool:
    return _ID.fullmatch(field.strip()) is not None and any(map(str.isdigit, field))


def beir(folder: Path, result: Conversion, options: Options) -> Iterator[TrainingRecord]:
    """Yield a record for each judged query of a BEIR folder.

    Raises:
        TableError: a file is missing, or several judgements could be meant.
    """
    corpus = options.corpus or find_file(folder, "corpus.jsonl")
    queries = options.queries or find_file(folder, "queries.jsonl")
    qrels = {path.name.split(".")[0]: path for path in sorted((folder / "qrels").glob("*.tsv*"))}
    if not (corpus and queries and qrels):
        raise TableError(f"{folder} is no BEIR folder: it needs corpus.jsonl, queries.jsonl and qrels/train.tsv")
    split = options.split or ("train" if "train" in qrels else next(iter(qrels)))
    if split not in qrels or (not options.split and split != "train" and len(qrels) > 1):
        raise TableError(f"{folder} has judgements of {', '.join(qrels)}: name one with --split")
    others = [path.name for name, path in qrels.items() if name != split]
    result.note(f"read: qrels/{qrels[split].name}" + (f"; not read: {', '.join(others)}" if others else ""))
    yield from judged(qrels[split], corpus, queries, "qrels", result, options)


def judged(
    path: Path, corpus: Path, queries: Path, kind: str, result: Conversion, options: Options
) -> Iterator[TrainingRecord]:
    """Yield a record for each judged query; in memory are the judgements and the texts that they name.

    Args:
        path: the judgements.
        corpus: ids and passages.
        queries: ids and queries.
        kind: ``qrels`` (query, passage, grade), ``ids`` (query, right passage, wrong passage), or ``auto``.
        result: where rows are counted.
        options: how the source is to be understood.
    """
    found: dict[str, dict[str, bool]] = {}
    places: dict[str, int] = {}
    for line, query, passage, right in _judgements(path, kind, result, options):
        places.setdefault(query, line)
        judgements = found.setdefault(query, {})
        judgements[passage] = right or judgements.get(passage, False)
    texts = dict(_texts(corpus, {passage for passages in found.values() for passage in passages}, options))
    asked = dict(_texts(queries, set(found), options))
    yield from records_of(path.name, _groups(path.name, found, places, texts, asked, (corpus, queries), result), result)


def _groups(
    name: str,
    found: dict[str, dict[str, bool]],
    places: dict[str, int],
    texts: dict[str, str],
    asked: dict[str, str],
    files: tuple[Path, Path],
    result: Conversion,
) -> Iterator[Judged]:
    for query, passages in found.items():
        line = places[query]
        if is_blank(asked.get(query, "")):
            what = "has an empty query" if query in asked else "has no query"
            result.leave_out(name, line, f"{files[1].name} {what} for the id", f" {query[:80]!r}", rows=len(passages))
            continue
        group = Judged(asked[query], line, id=query)
        for passage, right in passages.items():
            if is_blank(texts.get(passage, "")):
                what = "has an empty passage" if passage in texts else "has no passage"
                result.leave_out(name, line, f"{files[0].name} {what} for the id", f" {passage[:80]!r}")
            else:
                group.add(Passage(texts[passage]), right, result)
        if group.rows:
            yield group


def _judgements(path: Path, kind: str, result: Conversion, options: Options) -> Iterator[tuple[int, str, str, bool]]:
    for line, fields in _id_rows(path, options):
        result.rows += 1
        if kind == "auto":
            kind = _kind_of(path.name, fields)
            result.kind = kind
        if len(fields) == 4 and kind == "qrels":
            fields = [fields[0], fields[2], fields[3]]  # TREC's second column means nothing
        if len(fields) != 3 or not all(field.strip() for field in fields):
            what = "query, passage, grade" if kind == "qrels" else "query, right passage, wrong passage"
            result.leave_out(path.name, line, f"is not {what}")
            continue
        query, passage, third = (field.strip() for field in fields)
        if kind == "ids":
            yield line, query, passage, True
            yield line, query, third, False
            continue
        grade = label_of(third)
        if grade is None:
            result.leave_out(path.name, line, "the grade is not a number", f": {third[:40]!r}")
            continue
        yield line, query, passage, is_right(path.name, line, grade, options)


def _kind_of(name: str, fields: list[str]) -> str:
    if len(fields) == 4:
        return "qrels"
    if len(fields) != 3:
        raise TableError(f"{name} holds {len(fields)} columns of ids: query, passage and grade are wanted, or TREC's four")
    raise TableError(
        f"{name} has three columns without names: say with --format qrels that the third is a grade, or with --format ids "
        "that it is a wrong passage's id"
    )


def _id_rows(path: Path, options: Options) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line, ids)``: of a table with a header, of TREC's columns between blanks, of JSON."""
    if suffix_of(path) in (*JSON_SUFFIXES, ".parquet"):
        for line, row in read_objects(path, options.reading):
            if isinstance(row, TableError):
                raise row
            yield line, _as_trec(_by_role(row))
        return
    order: list[int] | None = None
    judged = False
    with open_text(path, options.reading) as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            mark = "\t" if "\t" in text else "," if suffix_of(path) == ".csv" else None
            fields = [field.strip().strip('"') for field in text.rstrip("\r\n").split(mark)]
            if line == 1 and is_header(fields, options.names):
                roles = [role_of(field) for field in fields]
                wanted = [_place(roles, "query_id", "query"), _place(roles, "document_id"), _place(roles, "label", "score")]
                order = [place for place in wanted if place is not None]
                judged = len(order) == 3
                order = order if judged else list(range(len(fields)))
                continue
            fields = [fields[place] for place in order] if order and len(fields) > max(order) else fields
            yield line, _as_trec(fields) if judged else fields


def _as_trec(fields: list[str]) -> list[str]:
    """Return query, passage and grade as the four columns that tell judgements from triples of ids."""
    return [fields[0], "0", *fields[1:]]


def _place(roles: list[str | None], *wanted: str) -> int | None:
    return next((roles.index(role) for role in wanted if role in roles), None)


def _by_role(row: dict[str, Any]) -> list[str]:
    roles: dict[str, Any] = {}
    for key, value in row.items():
        roles.setdefault(role_of(key) or key, value)
    values = (
        roles.get("query_id", roles.get("query")),
        roles.get("document_id"),
        roles.get("label", roles.get("score")),
    )
    return ["" if value is None else str(value) for value in values]


def _texts(path: Path, wanted: set[str], options: Options) -> Iterator[tuple[str, str]]:
    """Yield id and text of a corpus or of queries, of those that are wanted.

    Raises:
        TableError: the file isn't ids and texts.
    """
    for line, row in _text_rows(path, options):
        key = next((row[role] for role in ("id", "document_id", "query_id") if row.get(role) not in (None, "")), None)
        if key is None:
            raise TableError(f"{path.name} line {line} has no id: it needs _id and text")
        if str(key) in wanted:
            yield str(key), passage_text({"title": row.get("title"), "text": row.get("document", row.get("query"))})


def _text_rows(path: Path, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line, values by role)``."""
    if suffix_of(path) not in TABLE_SUFFIXES:
        for line, row in read_objects(path, options.reading):
            if isinstance(row, TableError):
                raise row
            roles: dict[str, Any] = {}
            for name, value in row.items():
                roles.setdefault(_text_role(name), value)
            yield line, roles
        return
    names: list[str] | None = None
    for line, fields in read_fields(path, options.reading):
        if names is None:
            names = [_text_role(field) for field in fields]
            if {"document", "query"} & set(names):
                continue
            names = ["id", "document"]  # MS MARCO's collection.tsv and queries.tsv
        if len(fields) != len(names):
            raise TableError(f"{path.name} line {line} has {len(fields)} fields, not {len(names)}: it needs ids and texts")
        yield line, dict(zip(names, fields, strict=True))


def _text_role(name: str) -> str:
    return role_of(name) or name.strip().lower()
