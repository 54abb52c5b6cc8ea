"""From what a language model wrote to an order: whatever it is, every document comes once, and what was wrong is counted."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

_THOUGHT_ENDS = "</think>"
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_MARKDOWN = re.compile(r"[*_`]")
# What documents are called. Between a word and its number or letter something may stand, such as a colon or JSON's quotes.
_NOUN = r"(?<![a-z])(?:passage|document|doc|text|candidate|item|option|id|문서|지문|본문|단락|구절|글|보기|후보|항목|자료)"
_BETWEEN = r"[\s\"':=#.\[(]{0,4}"
# Numbers that are no labels: scores, and how many documents there are.
_OTHER_NUMBERS = re.compile(
    rf"(?:score|confidence|probability|점수|확률|유사도){_BETWEEN}\d++(?:\.\d++)?(?:\s?/\s?\d++)?(?!\s*>)"
    r"|(?<!\d)\d++(?:\.\d++)?\s?(?:%|퍼센트|점)"
    r"|(?<!\d)\d++\s?(?:passages|documents|texts|candidates|items|개|건|편)",
    re.IGNORECASE | re.ASCII,
)


class _Labels:
    """How labels of a kind are found in texts, in which case makes no difference.

    Args:
        plain: a pattern of one as it was asked for.
        label: a pattern of one in a text.
        sure: patterns of one where less than anything can be meant, all of which are tried, the surest first.

    Attributes:
        label, sure: as above.
        ranks: numbers that say which rank a document has, as in ``1. Passage 3``, ``Rank 1:`` and ``3위``, each in a group.
        shape: of an answer as it was asked for.
    """

    def __init__(self, plain: str, label: str, *sure: str) -> None:
        no_label = r"(?!\s*(?:>|→|,\s*[\[(]?\d)|\s?번(?!째))"  # what comes before others in a row is one itself
        ranks = (
            rf"(?:\b(?:rank|top|place|position)|순위|등수|랭킹|상위){_BETWEEN}(\d{{1,3}}+){no_label}[\])]?",
            r"(?<!\d)(\d{1,3}+)(?:st|nd|rd|th)\b(?:\s+place\b)?",
            r"(?<!\d)(\d{1,3}+)(?:순위| 순위(?![ :]{0,2}\d)| ?위|등|번째)",
            rf"[\"'](\d{{1,3}}+)[\"']\s*:(?=\s*[\"']?(?:{_NOUN}{_BETWEEN})?{label})",
            rf"^[ \t(\[#|-]{{0,4}}(\d{{1,3}}+)[ \t\]).:|-]{{0,4}}(?={_NOUN}{_BETWEEN}{label})",
            rf"^[ \t#|-]{{0,4}}(\d{{1,3}}+)[ \t]?[.):|]+[ \t]+(?=[^>\n]*{label})",
        )
        flags = re.IGNORECASE | re.ASCII
        self.label = re.compile(label, flags)
        self.sure = [re.compile(pattern, flags) for pattern in sure]
        self.ranks = re.compile("|".join(ranks), flags | re.MULTILINE)
        self.shape = re.compile(rf"\[{plain}\](?: > \[{plain}\])*", re.ASCII)


# A decimal number is one, and none of the labels.
_NUMBER = r"(?<![\d.])\d++(?:\.\d++)?"
_NUMBERS = _Labels(r"\d+", _NUMBER, rf"{_NOUN}s?{_BETWEEN}({_NUMBER})", rf"({_NUMBER})\s?번(?!째)", _NUMBER)
# Korean endings follow a letter without a space.
_LETTER, _CAPITAL = (rf"(?<![A-Za-z0-9]){letter}(?![A-Za-z0-9])" for letter in ("[A-Z]", "(?-i:[A-Z])"))
_LETTERS = _Labels(
    "[A-Z]",
    _LETTER,
    rf"{_NOUN}s?{_BETWEEN}({_LETTER})",
    rf"({_LETTER})(?=[가-힣])",
    # Small ones may be words, and so may "I" where others follow it.
    rf"(?!I(?:'| [a-z]))({_CAPITAL})",
    rf"(?:\A|[>→,;:\n])[ \t\"'(]*({_LETTER})[ \t\"').]*(?=\Z|[>→,;\n])",
)


@dataclass(frozen=True, slots=True)
class Faults:
    """What was wrong with answers.

    Attributes:
        misshapen: answers that are not ``[2] > [1] > [3]``.
        repeated: labels that were there before.
        unknown: labels of no document.
        missing: documents that were not named; they follow in the order they had.
    """

    misshapen: int = 0
    repeated: int = 0
    unknown: int = 0
    missing: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(
            self.misshapen + other.misshapen,
            self.repeated + other.repeated,
            self.unknown + other.unknown,
            self.missing + other.missing,
        )


def parse_order(answer: str, labels: Sequence[str]) -> tuple[list[int], Faults]:
    """Return the documents that an answer names, best first, and what was wrong with it.

    What a model thought before its answer is passed over. Labels count where they are in brackets, and where there are none
    in brackets wherever they stand, small letters where they can be nothing else; full-width, circled and raised ones as the
    plain ones. Ranks, as in ``Rank 1: Passage 3`` or ``문서 3: 1위``, are no labels; where each document has one, they order.

    Args:
        answer: any text.
        labels: of the documents, all numbers or all capital letters, as in ``["1", "2"]``.

    Returns:
        Indexes of documents among the labels, each once.
    """
    text = _plain(answer.rpartition(_THOUGHT_ENDS)[2])
    kind = _NUMBERS if labels and labels[0].isdecimal() else _LETTERS
    named = _named(text, kind, frozenset(labels))
    index_of = {label: index for index, label in enumerate(labels)}
    indexes = [index_of.get(label) for label in named]
    known = [index for index in indexes if index is not None]
    order = list(dict.fromkeys(known))
    missing = [index for index in range(len(labels)) if index not in set(order)]
    return order + missing, Faults(
        misshapen=kind.shape.fullmatch(text.strip()) is None,
        repeated=len(known) - len(order),
        unknown=len(indexes) - len(known),
        missing=len(missing),
    )


# Where a label or a rank stands, and which.
_Stated = tuple[int, str]


def _named(text: str, kind: _Labels, labels: frozenset[str]) -> list[str]:
    """Return the labels that a text names, best first, those of no document included."""
    text = _OTHER_NUMBERS.sub(_blank, _MARKDOWN.sub(" ", text))
    ranks = [(found.start(), found[found.lastindex or 0]) for found in kind.ranks.finditer(text)]
    stated = _stated(kind.ranks.sub(_blank, text), kind, labels)
    if not labels.intersection(label for _, label in stated):  # what looked like ranks is all that there is
        return [label for _, label in _stated(text, kind, labels)]
    return _by_ranks(stated, ranks)


def _stated(text: str, kind: _Labels, labels: frozenset[str]) -> list[_Stated]:
    """Return what a text names, in its order: what stands in brackets, else the surest that names all, else the most."""
    inside = [
        found for bracket in _BRACKETS.finditer(text) for found in _finds(kind.label, text, bracket.start(1), bracket.end(1))
    ]
    if inside:
        return inside
    patterns = list(kind.sure)
    if all(len(word) == 1 for word in re.findall(r"\w+", text)):
        patterns.append(kind.label)
    readings = [_finds(pattern, text, 0, len(text)) for pattern in patterns]

    def named(reading: Sequence[_Stated]) -> int:
        return len(labels.intersection(label for _, label in reading))

    whole = (reading for reading in readings if named(reading) == len(labels))
    return next(whole, None) or max(reversed(readings), key=named)


def _finds(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[_Stated]:
    # As text: a number may have more digits than any label, and than int takes.
    return [
        (found.start(found.lastindex or 0), found[found.lastindex or 0].upper().lstrip("0"))
        for found in pattern.finditer(text, start, end)
    ]


def _by_ranks(stated: Sequence[_Stated], ranks: Sequence[_Stated]) -> list[str]:
    """Return labels by the ranks that are said of them, if one is said of each, before or behind it; else as they stand."""
    both = sorted([(start, True, rank) for start, rank in ranks] + [(start, False, label) for start, label in stated])
    said = [label for _, label in stated]
    if len(ranks) != len(stated) or any(one[1] == other[1] for one, other in itertools.pairwise(both)):
        return said
    return [label for _, label in sorted(zip((int(rank) for _, rank in ranks), said, strict=True), key=itemgetter(0))]


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _plain(text: str) -> str:
    # Circled numbers stand apart, whatever they stand beside.
    apart = "".join(f" {char} " if unicodedata.decomposition(char).startswith("<circle>") else char for char in text)
    return unicodedata.normalize("NFKC", apart)
