"""Five kinds of question that choices are made on, beside the plain ones: what users ask that an encyclopaedia does not.

======== ==================================================================================================================
kind     how a question and its documents are made
======== ==================================================================================================================
overlap  a statement or question of KoBEST, whose words stand in its passage, and words quoted from passages of TyDi-ko
long     a question of TyDi-ko; every document is a report: sections of documentation, a table and standing phrases, and one
         passage in a section of its own
keywords a question of TyDi-ko without its grammar: its nouns, names, numbers and foreign words alone
numbers  a question that names a number of its passage, or words quoted around one; six more passages differ from the right
         one in that number alone
noise    a question of TyDi-ko as it is typed in haste: without spaces, a letter beside the right one or missing, in
         decomposed letters (NFD)
======== ==================================================================================================================

All is made of the validation side's passages and of lines that are kept out of every stage as they stand there (`corpus`; some
stand in other documents, too), by rules of this module; NFD, missing spaces and altered numbers are in the training, too.
What is made is a function of the data folder alone; `digest` tells that it is still the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from unicodedata import normalize

from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.questions import Question, TestSet
from ko_reranker.languages import KOREAN
from training_job.mini_reranker.corpus import Corpus, draw_of

_QUOTED_WORDS = (5, 8)
_SECTIONS = (2, 5)  # of documentation in a report, beside the passage's own
_LINES = (1, 3)  # of a section
_ALTERED = 6  # passages that differ in one number
_KEYWORD_TAGS = ("NN", "SL", "SN", "XR", "NR")
_NUMBER = re.compile(r"\d+")
_FIRST_SYLLABLE, _VOWELS, _FINALS = ord("가"), 21, 28
# Neighbours on the Korean keyboard, by their index among the vowels of a syllable: ㅏㅓ, ㅗㅓ, ㅐㅔ, ㅣㅏ, ㅜㅠ, ㅡㅜ.
_NEIGHBOURS = {0: 4, 4: 8, 8: 4, 1: 5, 5: 1, 20: 0, 13: 17, 17: 13, 18: 13}

_HEADER = "문서번호 {number} | 보존기간 {years}년 | 공개 구분: 부분 공개\n본 문서는 관계 부서의 검토를 거쳐 작성되었습니다."
_FOOTER = "붙임 {count}부. 끝.\n본 문서의 내용은 사전 고지 없이 변경될 수 있으며 무단 복제와 배포를 금합니다."


def validation_kinds(corpus: Corpus) -> dict[str, TestSet]:
    """Return the five kinds by name, from the data folder alone: the same folder gives the same test sets."""
    return {name: make(corpus) for name, make in KINDS.items()}


def digest(test_set: TestSet) -> str:
    """Return the SHA-256 of a test set's questions, right passages and passages, in hexadecimal digits."""
    questions = [(question.query, sorted(question.relevance.items())) for question in test_set.questions]
    whole = json.dumps([questions, test_set.passages], ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


def _overlap(corpus: Corpus) -> TestSet:
    quotes = [(quote, record.positives[0]) for record in corpus.tydi["validation"] if (quote := _quote(record.positives[0]))]
    asked = [(record.query, record.positives[0]) for record in corpus.kobest["validation"]]
    return _test_set("overlap", [*asked, *quotes], _passages(corpus))


def _long(corpus: Corpus) -> TestSet:
    lines = [korean for _, korean in corpus.alignment_check]
    reports = {passage: _report(passage, lines) for passage in _passages(corpus)}
    asked = [(record.query, reports[record.positives[0]]) for record in corpus.tydi["validation"]]
    return _test_set("long", asked, list(reports.values()))


def _keywords(corpus: Corpus) -> TestSet:
    records = corpus.tydi["validation"]
    analysed = KOREAN.analyser(1)([record.query for record in records])
    asked = []
    for record, morphemes in zip(records, analysed, strict=True):
        words = list(
            dict.fromkeys(form for form, _, tag in (word.rpartition("/") for word in morphemes) if tag in _KEYWORD_TAGS)
        )
        if len(words) >= 2:
            asked.append((" ".join(words), record.positives[0]))
    return _test_set("keywords", asked, _passages(corpus))


def _numbers(corpus: Corpus) -> TestSet:
    asked, altered = [], []
    for record in corpus.native("validation"):
        passage = record.positives[0]
        named = [number for number in _NUMBER.findall(record.query) if number in _NUMBER.findall(passage)]
        query, number = (record.query, named[0]) if named else _quote_of_number(passage)
        if number:
            asked.append((query, passage))
            altered += list(_with_other_numbers(passage, number))
    return _test_set("numbers", asked, [*_passages(corpus), *altered])


def _noise(corpus: Corpus) -> TestSet:
    asked = [(_in_haste(record.query), record.positives[0]) for record in corpus.tydi["validation"]]
    return _test_set("noise", asked, _passages(corpus))


KINDS: dict[str, Callable[[Corpus], TestSet]] = {
    "overlap": _overlap,
    "long": _long,
    "keywords": _keywords,
    "numbers": _numbers,
    "noise": _noise,
}


def _passages(corpus: Corpus) -> list[str]:
    """Every passage of the validation side, once."""
    return list(dict.fromkeys(_first(corpus.native("validation"))))


def _first(records: Sequence[TrainingRecord]) -> Iterator[str]:
    return (record.positives[0] for record in records)


def _test_set(name: str, asked: Sequence[tuple[str, str]], passages: Sequence[str]) -> TestSet:
    """Return (query, right document) pairs as questions, each query once, asked to all passages."""
    right: dict[str, dict[str, float]] = {}
    for query, document in asked:
        right.setdefault(query, {})[document] = 1
    return TestSet([Question(query, relevance, name) for query, relevance in right.items()], list(dict.fromkeys(passages)))


def _drawing(text: str) -> random.Random:
    """A generator that a text alone seeds, so that what is made of it does not depend on its neighbours."""
    return random.Random(draw_of(text))  # noqa: S311  a seeded draw, no secret


def _quote(passage: str) -> str | None:
    """Return some words of a passage's middle as they stand there, or None if it is too short."""
    words, draw = passage.split(), _drawing(passage)
    count = draw.randint(*_QUOTED_WORDS)
    if len(words) < 3 * count:
        return None
    start = draw.randint(count, len(words) - 2 * count)
    return " ".join(words[start : start + count])


def _quote_of_number(passage: str) -> tuple[str, str]:
    """Return some words around a number of a passage, and the number; both empty if there is none of two digits or more."""
    words, draw = passage.split(), _drawing(passage)
    indices = [index for index, word in enumerate(words) if len("".join(_NUMBER.findall(word)[:1])) > 1]
    if not indices:
        return "", ""
    index, before = draw.choice(indices), draw.randint(1, _QUOTED_WORDS[0])
    start = max(0, index - before)
    return " ".join(words[start : start + _QUOTED_WORDS[1]]), _NUMBER.findall(words[index])[0]


def _report(passage: str, lines: Sequence[str]) -> str:
    """Return a business-like document with the passage in one of its sections."""
    draw = _drawing(passage)
    sections = [" ".join(draw.choices(lines, k=draw.randint(*_LINES))) for _ in range(draw.randint(*_SECTIONS))]
    rows = [f"{number} | {draw.choice(lines)[:20]} | {draw.randint(1, 99)}" for number in range(1, draw.randint(3, 6))]
    sections.insert(draw.randint(0, len(sections)), "\n".join(["번호 | 항목 | 수량", *rows]))
    sections.insert(draw.randint(0, len(sections)), passage)
    numbered = [f"제{number}항\n{section}" for number, section in enumerate(sections, 1)]
    header = _HEADER.format(number=draw.randint(1000, 9999), years=draw.choice((3, 5, 10)))
    return "\n\n".join([header, *numbered, _FOOTER.format(count=draw.randint(1, 9))])


def _with_other_numbers(passage: str, number: str) -> Iterator[str]:
    """Yield copies of a passage in which one number is another of as many digits, wherever it stands alone."""
    draw, digits = _drawing(passage), len(number)
    lowest, highest = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
    # Near ones are the hard ones: a year is taken for its neighbour.
    near = [other for other in range(int(number) - 9, int(number) + 10) if lowest <= other <= highest and other != int(number)]
    for other in draw.sample(near, min(_ALTERED, len(near))):
        yield re.sub(rf"(?<!\d){number}(?!\d)", f"{other:0{digits}d}", passage)


def _in_haste(query: str) -> str:
    """Return a query with one of four faults of typing."""
    draw = _drawing(query)
    return draw.choice((_without_spaces, _beside_the_key, _without_a_letter, _decomposed))(query, draw)


def _without_spaces(query: str, draw: random.Random) -> str:
    return "".join(query.split())


def _beside_the_key(query: str, draw: random.Random) -> str:
    """A vowel's neighbour on the keyboard instead of it, in one syllable."""
    return _changed(query, draw, lambda vowel, final: (_NEIGHBOURS.get(vowel, vowel), final))


def _without_a_letter(query: str, draw: random.Random) -> str:
    """The final consonant of one syllable left out."""
    return _changed(query, draw, lambda vowel, final: (vowel, 0))


def _decomposed(query: str, draw: random.Random) -> str:
    return normalize("NFD", query)


def _changed(query: str, draw: random.Random, change: Callable[[int, int], tuple[int, int]]) -> str:
    """Return the query with one of the syllables that the change alters altered, or as it is if there is none."""
    found = []
    for index, letter in enumerate(query):
        number = ord(letter) - _FIRST_SYLLABLE
        if not 0 <= number < 19 * _VOWELS * _FINALS:
            continue
        first, vowel, final = number // (_VOWELS * _FINALS), number // _FINALS % _VOWELS, number % _FINALS
        changed = change(vowel, final)
        if changed != (vowel, final):
            found.append((index, chr(_FIRST_SYLLABLE + (first * _VOWELS + changed[0]) * _FINALS + changed[1])))
    if not found:
        return query
    index, letter = draw.choice(found)
    return query[:index] + letter + query[index + 1 :]
