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

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ko_reranker.data.conversion.columns import role_of
from ko_reranker.data.jsonl import DamagedFile
from ko_reranker.data.records import RecordError, parse_record
from ko_reranker.data.splits import fingerprint
from ko_reranker.data.tables import TableError, find_file, passage_text, read_table
from ko_reranker.languages import KOREAN, Language
from ko_reranker.text import is_blank

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
        relevance: by passage, its grade, above 0; what is not in it is wrong.
        source: where it comes from.
        candidates: the documents to rank, when they are given; else a first stage finds them.
        candidate_scores: the first stage's, (candidates,), when it is given.
        own: a passage that is the query itself, by its id, and no candidate: ArguAna asks with passages of its corpus.
    """

    query: str
    relevance: dict[str, float]
    source: str
    candidates: tuple[str, ...] | None = None
    candidate_scores: tuple[float, ...] | None = None
    own: str | None = None


@dataclass(frozen=True, slots=True)
class TestSet:
    """What rankers are compared on.

    Attributes:
        questions: in the order of the files; a query that comes more than once is one question with all its right passages.
        passages: every distinct passage, which a first stage searches; of several spellings of one text, the first.
        skipped: what was passed over because it can't be used, and how often.
        language: of the questions and passages.
    """

    __test__ = False

    questions: list[Question]
    passages: list[str]
    skipped: dict[str, int] = field(default_factory=dict)
    language: Language = KOREAN


@dataclass(slots=True)
class _Read:
    """What has been read so far.

    Attributes:
        passages: by fingerprint, as they came first.
        skipped: what was passed over.
    """

    passages: dict[int, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def one(self, text: str) -> str:
        """Return a passage as it came first: two spellings of a text are one passage."""
        return self.passages.setdefault(fingerprint(text), text)


def read_test_set(paths: Sequence[Path], language: Language = KOREAN) -> TestSet:
    """Read files and folders, together one test set in one language.

    Raises:
        TestSetError: naming file, line, field and what is wrong.
    """
    read = _Read()
    questions: dict[tuple[Any, ...], Question] = {}
    for path in paths:
        count = 0
        for question in _read(path, read):
            count += 1
            # Candidates that come ranked stay as they are, also for a query that comes again.
            key = (fingerprint(question.query), question.source, question.candidate_scores and question.candidates)
            known = questions.get(key, question)
            given = known.candidates and question.candidates and (*known.candidates, *question.candidates)
            questions[key] = replace(
                known,
                relevance=known.relevance | question.relevance,
                # Where one of them comes without, a first stage finds them.
                candidates=tuple(dict.fromkeys(given)) if given else None,
            )
        if not count:
            why = f" ({'; '.join(f'{times} × {what}' for what, times in read.skipped.items())})" if read.skipped else ""
            raise TestSetError(f"{path} holds no question with a right passage{why}")
    return TestSet(list(questions.values()), list(read.passages.values()), dict(read.skipped), language)


def _read(path: Path, read: _Read) -> Iterator[Question]:
    if not path.exists():
        raise TestSetError(f"there is no {path}")
    try:
        if path.is_dir():
            yield from _beir(path, read)
        elif ".csv" in path.suffixes:
            yield from _published(path, read)
        else:
            source = path.name.split(".")[0]
            for line, row in read_table(path):
                try:
                    yield _given(row, source, read) if "candidates" in row else _record(row, source, read)
                except RecordError as error:
                    raise TestSetError(f"{path.name} line {line}, {error}") from None
    except (TableError, DamagedFile) as error:
        raise TestSetError(str(error)) from None
    except OSError as error:
        raise TestSetError(f"{path.name} can't be read: {error}") from None


def _record(row: dict[str, Any], source: str, read: _Read) -> Question:
    record = parse_record(row)
    positives = [read.one(text) for text in record.positives]
    # A passage given as both is right.
    candidates = tuple(dict.fromkeys((*positives, *(read.one(text) for text in record.negatives))))
    return Question(record.query, dict.fromkeys(positives, 1), _source(row, source), candidates)


def _given(row: dict[str, Any], source: str, read: _Read) -> Question:
    record = parse_record({"query": row.get("query"), "pos": row.get("pos") or ["-"]})
    relevance: dict[str, float] = dict.fromkeys(map(read.one, record.positives), 1) if row.get("pos") else {}
    items = row["candidates"]
    if not isinstance(items, list) or not items:
        raise RecordError("candidates", "must be a list of at least one document")
    scores: dict[str, float | None] = {}
    for index, item in enumerate(items):
        where = f"candidates[{index}]"
        item = {"text": item} if isinstance(item, str) else item
        if not isinstance(item, dict) or not isinstance(item.get("text"), str) or is_blank(item["text"]):
            raise RecordError(where, "must be a string, or an object with a text")
        if item["text"] in scores:
            raise RecordError(where, "is the same document as an earlier candidate")
        grade = item.get("relevance", 0)
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade < math.inf:
            raise RecordError(f"{where}.relevance", "must be a whole number or a fraction from 0, the higher the better")
        text = read.one(item["text"])
        if grade:
            relevance[text] = max(grade, relevance.get(text, 0))
        if text in scores:
            read.skipped["candidates that are another one in another spelling"] += 1
        else:
            scores[text] = _number(item.get("score"), f"{where}.score")
    if not relevance:
        raise RecordError("pos", "is missing, and no candidate has a relevance above 0: which one is right?")
    missing = [index for index, score in enumerate(scores.values()) if score is None]
    if missing and len(missing) < len(scores):
        raise RecordError(f"candidates[{missing[0]}].score", "is missing: give every candidate one, or none")
    # Without scores, the order is the first stage's.
    values = [-float(index) if score is None else score for index, score in enumerate(scores.values())]
    return Question(record.query, relevance, _source(row, source), tuple(scores), tuple(values))


def _published(path: Path, read: _Read) -> Iterator[Question]:
    documents: dict[str, str] = {}
    for line, row in read_table(path):
        if missing := [name for name in _PUBLISHED if name not in row]:
            raise TestSetError(f"{path.name} line {line}, {missing[0]}: is missing: columns are question,answer,doc_id,doc")
        for name in _PUBLISHED:
            if is_blank(row[name]):
                raise TestSetError(f"{path.name} line {line}, {name}: is blank")
        if documents.setdefault(row["doc_id"], row["doc"]) != row["doc"]:
            raise TestSetError(f"{path.name} line {line}, doc_id: {row['doc_id']} has another doc further up")
        yield Question(row["question"], {read.one(row["doc"]): 1}, row.get("source") or path.name.split(".")[0])


def _beir(folder: Path, read: _Read) -> Iterator[Question]:
    """Yield the judged questions; empty and missing texts, which published sets have, are passed over and counted."""
    corpus, queries = find_file(folder, "corpus.jsonl"), find_file(folder, "queries.jsonl")
    qrels = next((found for name in _QRELS if (found := find_file(folder, name))), None)
    if not (corpus and queries and qrels):
        raise TestSetError(f"{folder} is no BEIR folder: it needs corpus.jsonl, queries.jsonl and qrels/test.tsv")
    texts = {key: read.one(text) if text else "" for key, text in _texts(corpus)}
    asked = dict(_texts(queries))
    read.skipped.update({f"empty passages of {corpus.name}": sum(not text for text in texts.values())})
    right: dict[str, dict[str, float]] = {}
    for line, row in read_table(qrels):
        roles = {role_of(name): value for name, value in row.items()}
        query, document = (roles.get(role) for role in ("query_id", "document_id"))
        try:
            grade = _grade(roles.get("score", roles.get("label")))
        except (TypeError, ValueError):
            grade = math.nan
        if query is None or document is None or math.isnan(grade):
            reason = "is not query-id, corpus-id, score, as the first line has to name the columns"
            raise TestSetError(f"{qrels.name} line {line}: {reason}")
        if grade <= 0:
            continue
        judged = right.setdefault(str(query), {})
        if text := texts.get(str(document)):
            judged[text] = max(grade, judged.get(text, 0))
        else:
            what = "are empty" if str(document) in texts else f"{corpus.name} has not"
            read.skipped[f"judgements of passages that {what}"] += 1
    for key, relevance in right.items():
        if not asked.get(key):
            read.skipped["questions that are empty" if key in asked else f"questions that {queries.name} has not"] += 1
        elif not relevance:
            read.skipped["questions without any right passage left"] += 1
        else:
            yield Question(asked[key], relevance, folder.resolve().name, own=texts.get(key) or None)
    read.skipped = +read.skipped


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ids and texts, "" for an empty one."""
    for line, row in read_table(path):
        if "_id" not in row:
            raise TestSetError(f"{path.name} line {line}, _id: is missing")
        text = passage_text(row)
        yield str(row["_id"]), "" if is_blank(text) else text


def _grade(value: Any) -> float:
    grade = float(value)
    if isinstance(value, bool) or not math.isfinite(grade):
        raise ValueError(value)
    return int(grade) if grade.is_integer() else grade


def _source(row: dict[str, Any], default: str) -> str:
    source = row.get("source")
    return source if isinstance(source, str) and source.strip() else default


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(where, "must be a finite number")
    return float(value)
