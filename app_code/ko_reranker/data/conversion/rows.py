"""Rows with their texts into training records: a row a record, or a query's rows together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ko_reranker.data.conversion.account import Conversion, Options
from ko_reranker.data.conversion.columns import Columns
from ko_reranker.data.conversion.values import Passage, RowError, carried, label_of, number_of, numbers_of, passages_of
from ko_reranker.data.records import RecordError, TrainingRecord, parse_record
from ko_reranker.data.tables import TableError
from ko_reranker.text import identity, is_blank

Rows = Iterable[tuple[int, dict[str, Any], Columns]]
_OWN_KEYS = {"id", "query", "pos", "neg", "pos_scores", "neg_scores"}


def each_a_record(name: str, rows: Rows, result: Conversion, options: Options) -> Iterator[TrainingRecord]:
    """Yield a record for each row of passages: pairs, triplets, n-tuples, lists of positives and negatives, labelled lists."""
    for line, row, columns in rows:
        try:
            if columns.document is not None:
                listed = passages_of(row[columns.document], columns.document)
                positives, negatives = _by_label(name, line, listed, row.get(str(columns.label)), options)
            else:
                positives = _of_columns(row, columns.positives, columns.positive_scores, result)
                negatives = _of_columns(row, columns.negatives, columns.negative_scores, result)
            extra = _extra(row, columns, result)
            record_id = _id(row, columns.id, columns.query_id)
            yield make_record(row.get(columns.query), positives, negatives, result, record_id, extra)
        except RowError as error:
            result.leave_out(name, line, str(error), error.detail)
        except RecordError as error:
            result.leave_out(name, line, f"{error.field.split('[')[0]} {error.reason}")


@dataclass(slots=True)
class Judged:
    """A query and the passages that are judged for it.

    Attributes:
        query: as it came first.
        rows: how many there were.
        line: of the first.
        passages: by identity: the passage and whether it is right.
        id: the query's name.
        extra: further columns that are the same in all its rows.
    """

    query: str
    line: int = 0
    rows: int = 0
    passages: dict[str, tuple[Passage, bool]] = field(default_factory=dict)
    id: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, passage: Passage, right: bool, result: Conversion) -> None:
        """Take in a judgement; of two that contradict each other, that it is right counts."""
        self.rows += 1
        key = identity(passage.text)
        known = self.passages.get(key)
        if known and known[1] != right:
            result.dropped["judgements as wrong of passages that are judged right for the same query, too"] += 1
        if known is None or (right and not known[1]):
            self.passages[key] = (passage, right)


def a_record_a_query(name: str, rows: Rows, result: Conversion, options: Options) -> Iterator[TrainingRecord]:
    """Yield a record for each query of rows of query, document and label; all of them are in memory together."""
    groups: dict[str, Judged] = {}
    for line, row, columns in rows:
        query, document = row.get(columns.query), row.get(str(columns.document))
        if not isinstance(query, str) or not isinstance(document, str) or is_blank(query) or is_blank(document):
            result.leave_out(name, line, "the query or the document is missing or blank")
            continue
        label = label_of(row.get(str(columns.label)))
        if label is None:
            result.leave_out(name, line, "the label is not a number", f": {row.get(str(columns.label))!r}"[:80])
            continue
        is_new = (key := identity(query)) not in groups
        group = groups.setdefault(key, Judged(query, line))
        score = number_of(row.get(columns.score)) if columns.score else None
        group.add(Passage(document, score), is_right(name, line, label, options), result)
        extra = _extra(row, columns, result) | {"id": _id(row, columns.query_id, columns.id)}
        if is_new:
            group.id, group.extra = extra.pop("id"), extra
            continue
        for column, value in [("id", group.id), *group.extra.items()]:
            if value is not None and extra.get(column) != value:
                result.note(f"{column} is not carried where it differs among a query's rows")
                group.extra.pop(column, None)
                group.id = None if column == "id" else group.id
    yield from records_of(name, groups.values(), result)


def records_of(name: str, groups: Iterable[Judged], result: Conversion) -> Iterator[TrainingRecord]:
    """Yield the records of judged queries; one without a right passage is left out with all its rows."""
    for group in groups:
        positives = [passage for passage, right in group.passages.values() if right]
        negatives = [passage for passage, right in group.passages.values() if not right]
        if not positives:
            result.leave_out(name, group.line, "no positive for the query", rows=group.rows)
            continue
        try:
            yield make_record(group.query, positives, negatives, result, group.id, group.extra)
        except RecordError as error:
            result.leave_out(name, group.line, f"{error.field.split('[')[0]} {error.reason}", rows=group.rows)


def is_right(name: str, line: int, label: float, options: Options) -> bool:
    """Tell whether a label says that a passage is right.

    Raises:
        TableError: it is a fraction, and nobody said from which on one is right.
    """
    if options.threshold is None and not label.is_integer():
        raise TableError(
            f"{name} line {line}: the label {label:g} is a fraction: say above which a passage is right, as in --threshold 0.5"
        )
    return label > (options.threshold or 0.0)


def make_record(
    query: Any,
    positives: list[Passage],
    negatives: list[Passage],
    result: Conversion,
    record_id: Any = None,
    extra: dict[str, Any] | None = None,
) -> TrainingRecord:
    """Return a record without blank and repeated passages, and without negatives that are right or the query itself.

    Raises:
        RecordError: it breaks the contract.
    """
    positives = _distinct(positives, set(), "positives", result)
    right = {identity(passage.text) for passage in positives} | ({identity(query)} if isinstance(query, str) else set())
    negatives = _distinct(negatives, right, "negatives", result)
    row: dict[str, Any] = {"query": query, "pos": [passage.text for passage in positives]}
    row["neg"] = [passage.text for passage in negatives]
    for key, passages in (("pos_scores", positives), ("neg_scores", negatives)):
        scores = [passage.score for passage in passages if passage.score is not None]
        if scores and len(scores) == len(passages):
            row[key] = scores
        elif scores:
            result.dropped[f"{key} of records in which not every passage has one"] += len(scores)
    if record_id is not None and record_id != "":
        row["id"] = record_id
    return parse_record(row | (extra or {}))


def _distinct(passages: list[Passage], taken: set[str], what: str, result: Conversion) -> list[Passage]:
    kept, seen = [], set[str]()
    for passage in passages:
        key = identity(passage.text)
        if is_blank(passage.text):
            result.dropped[f"blank {what}"] += 1
        elif key in taken:
            result.dropped["negatives that are a positive or the query"] += 1
        elif key in seen:
            result.dropped[f"{what} that stand there twice"] += 1
        else:
            kept.append(passage)
        seen.add(key)
    return kept


def _of_columns(row: dict[str, Any], names: tuple[str, ...], scores: str | None, result: Conversion) -> list[Passage]:
    found = [passage for name in names for passage in passages_of(row.get(name) or None, name)]
    numbers = numbers_of(row.get(scores)) if scores else None
    if numbers is None:
        return found
    if len(numbers) != len(found):
        result.dropped[f"{scores} that are not one a passage"] += len(numbers)
        return found
    return [Passage(passage.text, number) for passage, number in zip(found, numbers, strict=True)]


def _by_label(
    name: str, line: int, passages: list[Passage], labels: Any, options: Options
) -> tuple[list[Passage], list[Passage]]:
    """Divide a list of documents by their labels, which stand in a list of their own or with each."""
    given: list[Any] = labels if isinstance(labels, list) else [passage.label for passage in passages]
    if isinstance(labels, str):
        given = numbers_of(labels) or []
    if len(given) != len(passages):
        raise RowError("there is not one label a document", f": {len(given)} of {len(passages)}")
    values = [label_of(label) for label in given]
    if None in values:
        raise RowError("a label is not a number", f": {given[values.index(None)]!r}"[:80])
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for passage, value in zip(passages, values, strict=True):
        sides[not is_right(name, line, value or 0.0, options)].append(passage)
    if not sides[0]:
        raise RowError("no positive for the query")
    return sides


def _id(row: dict[str, Any], *names: str | None) -> Any:
    value = next((row[name] for name in names if name and row.get(name) not in (None, "")), None)
    value = carried(value)
    return str(value) if isinstance(value, (list, dict)) else value


def _extra(row: dict[str, Any], columns: Columns, result: Conversion) -> dict[str, Any]:
    extra = {}
    for name in columns.others:
        key, value = ("source" if identity(name) == "출처" else str(name)), carried(row.get(name))
        if key in _OWN_KEYS:
            result.note(f"the column {key} is not carried: a record has a key of its own by this name")
        elif value is not None and value != "":
            extra[key] = value
    return extra
