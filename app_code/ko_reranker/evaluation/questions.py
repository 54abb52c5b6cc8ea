"""Test sets: questions with their right passages, in the formats in which people have them.

=========================  ========================================================================================
input                      what it holds
=========================  ========================================================================================
``.jsonl``                 training records: ``query``, ``pos``, ``neg``
``.jsonl``                 given candidates: ``query`` and ``candidates``, strings or objects with ``text`` and perhaps
                           ``score`` (the first stage's) and ``relevance`` (0: wrong); right are also those in ``pos``
``.csv``                   the published evaluation: ``question,answer,doc_id,doc``, a row a right document
folder                     BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv`` (or ``qrels.tsv``, ``.jsonl``)
=========================  ========================================================================================

All of it may be gzip. A record's ``source`` says where it comes from; else that is the name of the file or folder.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ko_reranker.data.jsonl import DamagedFile
from ko_reranker.data.records import RecordError, parse_record
from ko_reranker.data.tables import TableError, find_file, passage_text, read_table

_QRELS = ("qrels/test.tsv", "qrels/dev.tsv", "qrels/train.tsv", "qrels.tsv", "qrels.jsonl")
_PUBLISHED = ("question", "doc_id", "doc")


class TestSetError(ValueError):
    """A test set can't be read; the message names file, line and field."""

    __test__ = False  # no test of pytest's


@dataclass(frozen=True, slots=True)
class Question:
    """A query and what is right for it.

    Attributes:
        query: the question.
        relevance: by passage, from 1; what is not in it is wrong.
        source: where it comes from.
        candidates: the documents to rank, when they are given; else a first stage finds them.
        candidate_scores: the first stage's, (candidates,), when it is given.
    """

    query: str
    relevance: dict[str, int]
    source: str
    candidates: tuple[str, ...] | None = None
    candidate_scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TestSet:
    """What rankers are compared on.

    Attributes:
        questions: in the order of the files; a query that comes more than once is one question with all its right passages.
        passages: every distinct passage, which a first stage searches.
    """

    __test__ = False

    questions: list[Question]
    passages: list[str]


def read_test_set(paths: Sequence[Path]) -> TestSet:
    """Read files and folders, together one test set.

    Raises:
        TestSetError: naming file, line, field and what is wrong.
    """
    passages: dict[str, None] = {}
    questions: dict[tuple[Any, ...], Question] = {}
    for path in paths:
        count = 0
        for question in _read(path, passages):
            count += 1
            passages.update(dict.fromkeys((*question.relevance, *(question.candidates or ()))))
            # Candidates that come ranked stay as they are, also for a query that comes again.
            key = (question.query, question.source, question.candidate_scores and question.candidates)
            known = questions.get(key, question)
            questions[key] = replace(
                known,
                relevance=known.relevance | question.relevance,
                candidates=tuple(dict.fromkeys((*known.candidates, *question.candidates))) if known.candidates else None,
            )
        if not count:
            raise TestSetError(f"{path} holds no question with a right passage")
    return TestSet(list(questions.values()), list(passages))


def _read(path: Path, passages: dict[str, None]) -> Iterator[Question]:
    if not path.exists():
        raise TestSetError(f"there is no {path}")
    try:
        if path.is_dir():
            yield from _beir(path, passages)
        elif ".csv" in path.suffixes:
            yield from _published(path)
        else:
            source = path.name.split(".")[0]
            for line, row in read_table(path):
                try:
                    yield _given(row, source) if "candidates" in row else _record(row, source)
                except RecordError as error:
                    raise TestSetError(f"{path.name} line {line}, {error}") from None
    except (TableError, DamagedFile) as error:
        raise TestSetError(str(error)) from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise TestSetError(f"{path.name} can't be read: {error}") from None


def _record(row: dict[str, Any], source: str) -> Question:
    record = parse_record(row)
    # A passage given as both is right.
    candidates = tuple(dict.fromkeys((*record.positives, *record.negatives)))
    return Question(record.query, dict.fromkeys(record.positives, 1), _source(row, source), candidates)


def _given(row: dict[str, Any], source: str) -> Question:
    record = parse_record({"query": row.get("query"), "pos": row.get("pos") or ["-"]})
    relevance = dict.fromkeys(record.positives, 1) if row.get("pos") else {}
    items = row["candidates"]
    if not isinstance(items, list) or not items:
        raise RecordError("candidates", "must be a list of at least one document")
    scores: dict[str, float | None] = {}
    for place, item in enumerate(items):
        where = f"candidates[{place}]"
        item = {"text": item} if isinstance(item, str) else item
        if not isinstance(item, dict) or not isinstance(item.get("text"), str) or not item["text"].strip():
            raise RecordError(where, "must be a string, or an object with a text")
        if item["text"] in scores:
            raise RecordError(where, "is the same document as an earlier candidate")
        scores[item["text"]] = _number(item.get("score"), f"{where}.score")
        grade = item.get("relevance", 0)
        if isinstance(grade, bool) or not isinstance(grade, int) or grade < 0:
            raise RecordError(f"{where}.relevance", "must be a whole number from 0, the higher the better")
        if grade:
            relevance[item["text"]] = grade
    if not relevance:
        raise RecordError("pos", "is missing, and no candidate has a relevance above 0: which one is right?")
    missing = [place for place, score in enumerate(scores.values()) if score is None]
    if missing and len(missing) < len(scores):
        raise RecordError(f"candidates[{missing[0]}].score", "is missing: give every candidate one, or none")
    # Without scores, the order is the first stage's.
    values = [-float(place) if score is None else score for place, score in enumerate(scores.values())]
    return Question(record.query, relevance, _source(row, source), tuple(scores), tuple(values))


def _published(path: Path) -> Iterator[Question]:
    documents: dict[str, str] = {}
    for line, row in read_table(path):
        if missing := [name for name in _PUBLISHED if name not in row]:
            raise TestSetError(f"{path.name} line {line}, {missing[0]}: is missing: columns are question,answer,doc_id,doc")
        for name in _PUBLISHED:
            if not row[name].strip():
                raise TestSetError(f"{path.name} line {line}, {name}: is blank")
        if documents.setdefault(row["doc_id"], row["doc"]) != row["doc"]:
            raise TestSetError(f"{path.name} line {line}, doc_id: {row['doc_id']} has another doc further up")
        yield Question(row["question"], {row["doc"]: 1}, row.get("source") or path.name.split(".")[0])


def _beir(folder: Path, passages: dict[str, None]) -> Iterator[Question]:
    corpus, queries = find_file(folder, "corpus.jsonl"), find_file(folder, "queries.jsonl")
    qrels = next((found for name in _QRELS if (found := find_file(folder, name))), None)
    if not (corpus and queries and qrels):
        raise TestSetError(f"{folder} is no BEIR folder: it needs corpus.jsonl, queries.jsonl and qrels/test.tsv")
    texts = dict(_texts(corpus))
    passages.update(dict.fromkeys(texts.values()))
    asked = dict(_texts(queries))
    right: dict[str, dict[str, int]] = {}
    for line, row in read_table(qrels):
        try:
            query, document, score = list(row.values())[:3]
            grade = int(score)
        except (TypeError, ValueError):
            raise TestSetError(f"{qrels.name} line {line}: is not query-id, corpus-id, score (a whole number)") from None
        for key, known, name in ((query, asked, queries.name), (document, texts, corpus.name)):
            if str(key) not in known:
                raise TestSetError(f"{qrels.name} line {line}: {name} has no {str(key)[:80]!r}")
        if grade > 0:
            right.setdefault(str(query), {})[texts[str(document)]] = grade
    for key, relevance in right.items():
        yield Question(asked[key], relevance, folder.resolve().name)


def _texts(path: Path) -> Iterable[tuple[str, str]]:
    for line, row in read_table(path):
        if "_id" not in row:
            raise TestSetError(f"{path.name} line {line}, _id: is missing")
        text = passage_text(row)
        if not text:
            raise TestSetError(f"{path.name} line {line}, text: is blank")
        yield str(row["_id"]), text


def _source(row: dict[str, Any], default: str) -> str:
    source = row.get("source")
    return source if isinstance(source, str) and source.strip() else default


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(where, "must be a finite number")
    return float(value)
