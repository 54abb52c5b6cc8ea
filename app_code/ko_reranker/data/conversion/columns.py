"""What the columns of other people's files are called, and which of them a conversion reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ko_reranker.data.tables import TableError
from ko_reranker.text import identity

# Names as `_plain` leaves them: one case, no spaces, hyphens or underscores.
_NAMES = {
    "query": "query question anchor sentence1 text1 querytext questiontext q 질문 질의 쿼리 검색어 질의문 "
    "질문내용 문의 문의내용",
    "positive": "positive positives pos positivepassage positivepassages positivedocument positivedocuments positivetext "
    "positivectxs positivecontexts chosen 긍정 긍정문서 정답문서 정답문단 정답지문 관련문서 긍정예시 맞는문서",
    "negative": "negative negatives neg negativepassage negativepassages negativedocument negativedocuments negativetext "
    "negativectxs negativecontexts hardnegative hardnegatives hardneg hardnegativectxs rejected rejectedresponse 부정 부정문서 "
    "오답 오답문서 오답문단 오답지문 비관련문서 부정예시 틀린문서",
    "document": "document documents passage passages text texts context contexts doc docs sentence2 text2 content contents "
    "candidates documenttext passagetext 문서 본문 지문 문단 단락 내용 텍스트 문맥 후보",
    "answer": "answer response 답변 답 정답 응답 대답",
    "label": "label labels relevance relevancelabel rel grade rating isselected isrelevant isrel gold 라벨 레이블 "
    "관련도 관련성 관련여부 적합도 등급 평점 정답여부",
    "score": "score scores similarity teacherscore 점수 유사도",
    "positive_scores": "posscores posscore positivescores positivescore",
    "negative_scores": "negscores negscore negativescores negativescore",
    "query_id": "queryid qid questionid 질문id 질의id 질문번호",
    "id": "id recordid 번호 아이디 일련번호 연번",
    "document_id": "docid documentid passageid corpusid pid did",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_NUMBERED = re.compile(r"(\D+)(\d+)")
_MAY_BE_PASSAGES = re.compile("(hard)?neg(ative)?s?(passage|document|doc|text|example|sample|\\d|$)|rejected|오답|부정|비관련")
_SINGLE = ("query", "document", "label", "score", "id")


def _plain(name: Any) -> str:
    return re.sub(r"[\s_\-./()]+", "", identity(str(name)))


def role_of(name: str) -> str | None:
    """Return what a column of this name holds, None when the name is not known."""
    plain = _plain(name)
    if plain in _ROLES:
        return _ROLES[plain]
    # Further negatives and positives have a number: negative_1, neg2.
    numbered = _NUMBERED.fullmatch(plain)
    role = _ROLES.get(numbered[1]) if numbered else None
    return role if role in ("positive", "negative") else None


def may_be_passages(name: str) -> bool:
    """Tell whether the name of a column that is read as none looks like one of negatives or positives."""
    return _MAY_BE_PASSAGES.match(_plain(name)) is not None and role_of(name) is None


@dataclass(frozen=True, slots=True)
class Names:
    """Columns that the caller named, or numbered from 1; what is empty is found by its name.

    Attributes:
        query, document, label, score, id: of one column each.
        positives, negatives: of any number.
    """

    query: str | None = None
    document: str | None = None
    label: str | None = None
    score: str | None = None
    id: str | None = None
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()

    def all(self) -> list[str]:
        """Return every name that was given."""
        single = [getattr(self, name) for name in _SINGLE]
        return [name for name in (*single, *self.positives, *self.negatives) if name]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row a conversion reads; those that it doesn't, it carries through.

    Attributes:
        query: the query's.
        positives, negatives: of passages: texts, or lists of them.
        document: of one passage, or a list of them, that `label` judges.
        label: of the judgement.
        score: a teacher's, of the document.
        positive_scores, negative_scores: a teacher's, of the passages.
        id: the record's name.
        query_id: the query's name.
        document_id: the passage's name, which no record holds.
        others: all other columns.
    """

    query: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    document: str | None = None
    label: str | None = None
    score: str | None = None
    positive_scores: str | None = None
    negative_scores: str | None = None
    id: str | None = None
    query_id: str | None = None
    document_id: str | None = None
    others: tuple[str, ...] = field(default=())

    @property
    def is_judged(self) -> bool:
        """Whether a column of documents is read, rather than columns of positives."""
        return self.document is not None


class _Roles:
    """What the columns of a file hold, by their names; what the caller named goes first.

    Args:
        names: of the file's columns.
        given: those that the caller named.
        where: the file's name, for errors.
    """

    def __init__(self, names: Sequence[str], given: Names, where: str) -> None:
        self._names, self._given, self._where = names, given, where
        self._by_role: dict[str, list[str]] = {}
        chosen = {_named(names, name, where) for name in given.all()}
        for name in names:
            role = role_of(name)
            if role and name not in chosen:
                self._by_role.setdefault(role, []).append(name)

    def found(self, role: str) -> list[str]:
        """Return the columns whose names say that they have a role, and which the caller did not give another one."""
        return self._by_role.get(role, [])

    def one(self, role: str, *, needed: bool = False) -> str | None:
        """Return the column of a role, None where there is none.

        Raises:
            TableError: there are several, or it is needed.
        """
        if option := getattr(self._given, role):
            return _named(self._names, option, self._where)
        found = self.found(role)
        if len(found) > 1:
            raise self.error(f": {' and '.join(found)} may both be the {role}; name one with --{role}")
        if needed and not found:
            raise self.error(f", and none is known as the {role}: name it with --{role}")
        return found[0] if found else None

    def several(self, role: str, given: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of a role that may have any number."""
        return tuple(_named(self._names, name, self._where) for name in given) if given else tuple(self.found(role))

    def error(self, what: str) -> TableError:
        """Make an error that lists the columns, and goes on with what is wrong with them."""
        return TableError(f"{self._where} has the columns {', '.join(map(str, self._names))}{what}")


def find_columns(names: Sequence[str], given: Names, where: str, kind: str = "auto") -> Columns:
    """Return the columns of a file.

    Args:
        names: of the file's columns.
        given: those that the caller named.
        where: the file's name, for errors.
        kind: what the caller takes the rows for.

    Raises:
        TableError: a column is missing, or several could be meant: it says which option settles it.
    """
    roles = _Roles(names, given, where)
    query = roles.one("query", needed=True)
    positives, negatives = roles.several("positive", given.positives), roles.several("negative", given.negatives)
    judged = kind in ("pointwise", "lists") or (kind == "auto" and not positives)
    if kind == "auto" and positives and not given.positives and roles.one("document") and (given.label or roles.found("label")):
        raise roles.error(", a labelled document and positives: say what to read with --format pointwise or --format triplets")
    document = label = score = None
    if judged:
        label, score = roles.one("label"), roles.one("score")
        if label is None:
            label, score = score, None
        document = roles.one("document")
        answers = roles.found("answer")
        if document is None and len(answers) == 1:
            if label is None and kind == "auto":
                positives, judged = tuple(answers), False
            else:
                document = answers[0]
        if judged and document is None:
            raise roles.error(
                ": none is known as a positive or as a document; name --positive (and --negative), or --document and --label"
            )
    elif not positives:
        raise roles.error(", and none is known as a positive: name it with --positive")
    if judged:
        positives = negatives = ()
    used = {query, document, label, score, *positives, *negatives}
    read = ("query_id", "document_id") if judged else ("query_id", "positive_scores", "negative_scores")
    rest = {role: next((name for name in roles.found(role) if name not in used), None) for role in read}
    used |= {roles.one("id"), *rest.values()}
    return Columns(
        query=query or "",
        positives=positives,
        negatives=negatives,
        document=document,
        label=label,
        score=score,
        id=roles.one("id"),
        others=tuple(name for name in names if name not in used and str(name).strip()),
        **rest,
    )


def _named(names: Sequence[str], wanted: str, where: str) -> str:
    """Return the column that the caller named, by its name or its number from 1."""
    if wanted in names:
        return wanted
    if same := [name for name in names if _plain(name) == _plain(wanted)]:
        return same[0]
    if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    raise TableError(f"{where} has no column {wanted!r}: it has {', '.join(map(str, names))}")


def is_header(fields: Sequence[str], given: Names) -> bool:
    """Tell whether fields are the names of columns: one of them is known, or the caller's."""
    known = {_plain(name) for name in given.all() if not name.isdigit()}
    return any(role_of(name) or _plain(name) in known for name in fields)
