"""The training record: one query, its positives, its negatives.

One JSON object a line, UTF-8: ``{"query": str, "pos": [str, …], "neg": [str, …]}`` with at least one positive, optionally
``id`` (str), ``instruction`` (str, what is looked for), ``pos_scores`` and ``neg_scores`` (a teacher's scores, one per
passage). Other keys are carried through.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ko_reranker.text import is_blank

# It stands in the prompt of each of a group's passages, and is never cut.
MAX_INSTRUCTION_CHARACTERS = 2_000

_OWN_KEYS = frozenset({"id", "query", "instruction", "pos", "neg", "pos_scores", "neg_scores"})


class RecordError(ValueError):
    """A record that breaks the contract.

    Attributes:
        field: the offending field, for example ``pos[0]``.
        reason: what is wrong with it, in words.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A query with its positive and negative passages.

    Attributes:
        query: the question, never blank.
        positives: passages that answer it, at least one, none blank.
        negatives: passages that do not; may be empty.
        id: the caller's name for the record, or None.
        positive_scores: a teacher's relevance scores, one per positive, or None.
        negative_scores: a teacher's relevance scores, one per negative, or None.
        instruction: what is looked for, never blank, for models that read one; None for the model's own.
        extra: every other key of the source object, unchanged.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    id: str | None = None
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    instruction: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> Iterator[str]:
        """Yield the query, then every positive, then every negative."""
        yield self.query
        yield from self.passages()

    def passages(self) -> tuple[str, ...]:
        """Return every positive, then every negative."""
        return (*self.positives, *self.negatives)

    def with_negatives_at(self, indexes: Sequence[int]) -> TrainingRecord:
        """Return the record with some of its negatives, and their scores."""
        if len(indexes) == len(self.negatives):
            return self
        scores = self.negative_scores
        return replace(
            self,
            negatives=tuple(self.negatives[index] for index in indexes),
            negative_scores=scores and tuple(scores[index] for index in indexes),
        )

    def with_negatives(self, negatives: tuple[str, ...]) -> TrainingRecord:
        """Return the record with other negatives; a teacher's scores for the old ones are dropped with them."""
        return replace(self, negatives=negatives, negative_scores=None)

    def to_json(self) -> dict[str, Any]:
        """Return the object of the wire format, own keys first."""
        row: dict[str, Any] = {} if self.id is None else {"id": self.id}
        row |= {"query": self.query} | ({} if self.instruction is None else {"instruction": self.instruction})
        row |= {"pos": list(self.positives), "neg": list(self.negatives)}
        if self.positive_scores is not None:
            row["pos_scores"] = list(self.positive_scores)
        if self.negative_scores is not None:
            row["neg_scores"] = list(self.negative_scores)
        return row | self.extra


def parse_record(row: Any) -> TrainingRecord:
    """Turn a decoded JSON value into a record.

    Raises:
        RecordError: naming the field and what is wrong with it.
    """
    if not isinstance(row, dict):
        raise RecordError("record", f"must be a JSON object, is {_kind(row)}")
    record_id = row.get("id")
    if isinstance(record_id, float) and record_id.is_integer():
        record_id = int(record_id)  # what pandas makes of a column of numbers in which one is missing
    if record_id is not None and not isinstance(record_id, (str, int, float)):
        raise RecordError("id", f"must be a string, is {_kind(record_id)}")
    if isinstance(record_id, str) and record_id.strip():
        _writable(record_id, "id")
    positives = _texts(row, "pos", at_least_one=True)
    negatives = _texts(row, "neg", at_least_one=False)
    return TrainingRecord(
        query=_text(row.get("query"), "query"),
        positives=positives,
        negatives=negatives,
        id=None if record_id is None else str(record_id),
        positive_scores=_scores(row, "pos_scores", len(positives)),
        negative_scores=_scores(row, "neg_scores", len(negatives)),
        instruction=_instruction(row.get("instruction")),
        extra=_extra(row),
    )


def _extra(row: dict[str, Any]) -> dict[str, Any]:
    extra = {key: value for key, value in row.items() if key not in _OWN_KEYS}
    if extra:
        # What is carried through must be writable: JSON can spell lone surrogates and numbers beyond any float.
        try:
            json.dumps(extra, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise RecordError(", ".join(map(ascii, extra))[:200], "can't be written as JSON in UTF-8") from None
    return extra


def _instruction(value: Any) -> str | None:
    if value is None:
        return None
    instruction = _text(value, "instruction")
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
        most = f"over the limit of {MAX_INSTRUCTION_CHARACTERS:,}"
        raise RecordError("instruction", f"has {len(instruction):,} characters, {most}")
    return instruction


def _text(value: Any, where: str) -> str:
    if value is None:
        raise RecordError(where, "is missing")
    if not isinstance(value, str):
        raise RecordError(where, f"must be a string, is {_kind(value)}")
    if is_blank(value):
        raise RecordError(where, "is blank")
    return _writable(value, where)


def _writable(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(where, f"holds a lone surrogate at character {error.start}") from None
    return value


def _texts(row: dict[str, Any], key: str, *, at_least_one: bool) -> tuple[str, ...]:
    values = row.get(key)
    if values is None:
        values = []
    if not isinstance(values, list):
        raise RecordError(key, f"must be a list of strings, is {_kind(values)}")
    if at_least_one and not values:
        raise RecordError(key, "needs at least one passage")
    return tuple(_text(value, f"{key}[{index}]") for index, value in enumerate(values))


def _scores(row: dict[str, Any], key: str, count: int) -> tuple[float, ...] | None:
    values = row.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != count:
        raise RecordError(key, f"must be a list of {count} numbers, one per passage")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RecordError(f"{key}[{index}]", "must be a finite number")
    return tuple(float(value) for value in values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
