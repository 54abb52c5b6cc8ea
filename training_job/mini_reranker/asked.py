"""Questions of more kinds than the data folder has, made of the training side's texts: what users ask beside questions.

======== ==================================================================================================================
kind     how a question and its passage are made
======== ==================================================================================================================
told     a sentence, and the rest of its passage
stated   a sentence, or its beginning, and its whole passage: the words of the question stand in the answer
masked   the words between two commas, and the passage without them
titles   what the first sentence of a passage is about
terms    the words of a passage that the fewest others have, without their particles
typed    a native question with a fault: words written together, a consonant doubled, a syllable in Latin keys, NFD
swapped  a native question; six more passages differ from the right one in one number, date or name of another passage
altered  a sentence that names a number, or the passage's subject beside the number; six more passages have there another
         number: one digit changed, two exchanged, or up to three more or less
reports  a native question; every passage is a piece of a circular: items, a table, disclaimers, and sentences with the answer
mixed    a heading of documentation in one language, its section in the other or line by line in both
======== ==================================================================================================================

The validation kinds (`kinds`) are made of other passages and in other words, and by other rules but for NFD, missing spaces and
altered numbers. What is made depends on the data
folder alone: each draw is seeded by its text.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from unicodedata import normalize

from ko_reranker.data.records import TrainingRecord
from training_job.mini_reranker.corpus import Corpus, draw_of
from training_job.mini_reranker.texts import sentences_of, told_sentences

_SUBJECT = re.compile(r"^(?P<subject>[^.,()]{2,25}?)(?:\s?\([^)]*\))?(?:은|는|이란|란)\s")
_PARTICLE = re.compile(r"(?<=..)(?:에서는|에서|으로|부터|까지|이라는|라는|이다|은|는|이|가|을|를|의|에|로|와|과|도|만)$")
_ENDING = re.compile(r"(?:이다|였다|했다|한다|된다|되었다|있다|하였다)\.?$")
_NUMBER = re.compile(r"(?<!\d)\d{1,4}(?!\d)")
_STATED = (15, 120)  # characters
_MASKED = (12, 80)
_TERMS = (2, 4)  # words
_SWAPPED = 6  # passages that differ in one word
_NEAR = 3  # what a number is more or less than the altered one
_REPORT = (380, 520)  # characters: what fits into one chunk
_FIRST_SYLLABLE, _VOWELS, _FINALS = ord("가"), 21, 28
# The Latin keys of the letters of a syllable on the Korean keyboard.
_INITIAL_KEYS = ("r", "R", "s", "e", "E", "f", "a", "q", "Q", "t", "T", "d", "w", "W", "c", "z", "x", "v", "g")
_VOWEL_KEYS = ("k", "o", "i", "O", "j", "p", "u", "P", "h", "hk", "ho", "hl", "y", "n", "nj", "np", "nl", "b", "m", "ml", "l")
_FINAL_KEYS = (
    *("", "r", "R", "rt", "s", "sw", "sg", "e", "f", "fr", "fa", "fq", "ft", "fx", "fv", "fg", "a", "q", "qt", "t", "T"),
    *("d", "w", "c", "z", "x", "v", "g"),
)
_DOUBLED = {0: 1, 3: 4, 7: 8, 9: 10, 12: 13}  # initial consonants that have a double: ㄱㄷㅂㅅㅈ

_OPENINGS = ("[공지]", "안녕하십니까.", "■ 업무 연락", "수신: 각 부서장", "※ 사내 한정")
_ITEMS = ("가. ", "나. ", "다. ", "- ", "• ", "1) ", "2) ", "▶ ")
_CLOSINGS = (
    "문의: 담당자",
    "이상입니다.",
    "첨부 파일을 참고하시기 바랍니다.",
    "※ 위 내용은 변경될 수 있습니다.",
    "감사합니다.",
)


def told(corpus: Corpus) -> Iterator[TrainingRecord]:
    for passage in _passages(corpus):
        yield from (TrainingRecord(sentence, (rest,)) for sentence, rest in told_sentences(passage))


def stated(corpus: Corpus) -> Iterator[TrainingRecord]:
    for passage in _passages(corpus):
        draw = _drawing("stated", passage)
        found = [one for one in sentences_of(passage) if _STATED[0] <= len(one) <= _STATED[1]]
        if found and len(passage) > 2 * _STATED[1]:
            sentence = draw.choice(found)
            words = sentence.split()
            if draw.random() < 0.5:  # as one types what one remembers of it
                sentence = _ENDING.sub("", " ".join(words[: max(3, len(words) * 2 // 3)]))
            yield TrainingRecord(sentence, (passage,))


def masked(corpus: Corpus) -> Iterator[TrainingRecord]:
    for passage in _passages(corpus):
        parts = passage.split(", ")
        inner = [index for index in range(1, len(parts) - 1) if _MASKED[0] <= len(parts[index]) <= _MASKED[1]]
        if inner:
            index = _drawing("masked", passage).choice(inner)
            yield TrainingRecord(parts[index], (", ".join(parts[:index] + parts[index + 1 :]),))


def titles(corpus: Corpus) -> Iterator[TrainingRecord]:
    for passage in _passages(corpus):
        if found := _SUBJECT.match(passage):
            yield TrainingRecord(found["subject"].strip(), (passage,))


def terms(corpus: Corpus) -> Iterator[TrainingRecord]:
    passages = _passages(corpus)
    words_of = [list(dict.fromkeys(_stem(word) for word in passage.split())) for passage in passages]
    passages_with = Counter(word for words in words_of for word in words)
    for passage, words in zip(passages, words_of, strict=True):
        draw = _drawing("terms", passage)
        telling = [word for word in words if len(word) > 1 and 1 < passages_with[word] < math.sqrt(len(passages))]
        if len(telling) >= _TERMS[0]:
            rarest = sorted(telling, key=passages_with.__getitem__)[: 2 * _TERMS[1]]
            chosen = draw.sample(rarest, min(draw.randint(*_TERMS), len(rarest)))
            yield TrainingRecord(" ".join(chosen), (passage,))


def typed(corpus: Corpus) -> Iterator[TrainingRecord]:
    for record in corpus.native("train"):
        draw = _drawing("typed", record.query)
        query = draw.choice((_together, _doubled, _in_latin_keys, _decomposed))(record.query, draw)
        yield TrainingRecord(query, record.positives)


def swapped(corpus: Corpus) -> Iterator[TrainingRecord]:
    records = corpus.native("train")
    numbers = list(dict.fromkeys(number for record in records for number in _NUMBER.findall(record.positives[0])))
    names = list(
        dict.fromkeys(found["subject"].strip() for record in records if (found := _SUBJECT.match(record.positives[0])))
    )
    for record in records:
        passage = record.positives[0]
        draw = _drawing("swapped", record.query)
        asked = [number for number in _NUMBER.findall(record.query) if number in _NUMBER.findall(passage)]
        name = _SUBJECT.match(passage)
        if asked:
            old, others = asked[0], [number for number in numbers if len(number) == len(asked[0]) and number != asked[0]]
            altered = [re.sub(rf"(?<!\d){old}(?!\d)", new, passage) for new in draw.sample(others, min(_SWAPPED, len(others)))]
        elif name and name["subject"].strip() in record.query:
            old = name["subject"].strip()
            others = [other for other in names if other not in record.query and len(other.split()) == len(old.split())]
            altered = [passage.replace(old, new) for new in draw.sample(others, min(_SWAPPED, len(others)))]
        else:
            continue
        yield TrainingRecord(record.query, (passage,), tuple(dict.fromkeys(altered)))


def altered(corpus: Corpus) -> Iterator[TrainingRecord]:
    for passage in _passages(corpus):
        draw = _drawing("altered", passage)
        named = [
            (sentence, number) for sentence in sentences_of(passage) for number in _NUMBER.findall(sentence) if len(number) > 1
        ]
        if not named or len(passage) < _STATED[1]:
            continue
        sentence, number = draw.choice(named)
        subject, words = _SUBJECT.match(passage), sentence.split()
        if subject and draw.random() < 0.5:
            with_it = next((word for word in words if number in _NUMBER.findall(word)), number)
            query = f"{subject['subject'].strip()} {with_it}"
        else:  # as one types what one remembers of it
            place = next((place for place, word in enumerate(words) if number in _NUMBER.findall(word)), 0)
            query = " ".join(words[: max(place + 2, len(words) // 2)])
        others = _other_numbers(number, draw)
        copies = [re.sub(rf"(?<!\d){number}(?!\d)", other, passage) for other in others]
        yield TrainingRecord(query, (passage,), tuple(copies))


def reports(corpus: Corpus) -> Iterator[TrainingRecord]:
    """A question and the piece of a circular that has the sentences around its answer."""
    lines = [korean for _, korean in corpus.aligned]
    for record in corpus.tydi["train"]:
        answer = str(record.extra.get("answer", ""))
        draw = _drawing("reports", record.query)
        kept = _around(sentences_of(record.positives[0]), answer, draw)
        if kept:
            yield TrainingRecord(record.query, (_circular(kept, lines, draw),))


def mixed(corpus: Corpus) -> Iterator[TrainingRecord]:
    for korean, english in corpus.pages_in_both():
        draw = _drawing("mixed", korean.query)
        way = draw.randrange(3)
        if way == 0:
            yield TrainingRecord(english.query, korean.positives)
        elif way == 1:
            yield TrainingRecord(korean.query, english.positives)
        else:
            both = zip(sentences_of(korean.positives[0]), sentences_of(english.positives[0]), strict=False)
            yield TrainingRecord(korean.query, (" ".join(draw.choice(pair) for pair in both),))


KINDS: dict[str, Callable[[Corpus], Iterable[TrainingRecord]]] = {
    "told": told,
    "stated": stated,
    "masked": masked,
    "titles": titles,
    "terms": terms,
    "typed": typed,
    "swapped": swapped,
    "altered": altered,
    "reports": reports,
    "mixed": mixed,
}


def _passages(corpus: Corpus) -> list[str]:
    return list(dict.fromkeys(record.positives[0] for record in corpus.native("train")))


def _drawing(kind: str, text: str) -> random.Random:
    """A generator that a text alone seeds, another one for each kind."""
    return random.Random(f"{kind} {draw_of(text)}")  # noqa: S311  a seeded draw, no secret


def _stem(word: str) -> str:
    return _PARTICLE.sub("", word.strip(".,()[]{}'\"‘’“”·:;!?~<>《》〈〉「」『』"))


def _other_numbers(number: str, draw: random.Random) -> list[str]:
    """Return numbers of as many digits that are easily taken for another one, of at least two digits."""
    near = [str(int(number) + step) for step in range(-_NEAR, _NEAR + 1)]
    digits = [number[:place] + digit + number[place + 1 :] for place in range(len(number)) for digit in "0123456789"]
    exchanged = [number[:place] + number[place + 1] + number[place] + number[place + 2 :] for place in range(len(number) - 1)]
    found = [draw.sample(ways, min(len(ways), _SWAPPED)) for ways in (near, digits, exchanged)]
    ways = dict.fromkeys(other for other in chain.from_iterable(zip_longest(*found)) if other)
    alike = [other for other in ways if len(other) == len(number) and other != number and (other[0] != "0" or number[0] == "0")]
    return alike[:_SWAPPED]


def _around(sentences: Sequence[str], answer: str, draw: random.Random) -> list[str]:
    """Return the sentence that has the answer with at most one neighbour on either side; nothing if none has it."""
    with_it = [index for index, sentence in enumerate(sentences) if answer and answer in sentence]
    if not with_it:
        return []
    index = with_it[0]
    return list(sentences[max(0, index - draw.randint(0, 1)) : index + 1 + draw.randint(0, 1)])


def _circular(kept: Sequence[str], lines: Sequence[str], draw: random.Random) -> str:
    """Return a business-like text with some sentences anywhere in it."""
    length = draw.randint(*_REPORT)
    items = [" ".join(kept)]
    while sum(map(len, items)) < length:
        filling = draw.choice(lines)
        if draw.random() < 0.2:
            filling = "\t".join([filling[:12].strip(), str(draw.randint(1, 9999)), draw.choice(("완료", "진행 중", "보류"))])
        items.insert(draw.randint(0, len(items)), filling)
    told = [draw.choice(_ITEMS) + item if draw.random() < 0.5 else item for item in items]
    return "\n".join([draw.choice(_OPENINGS), *told, draw.choice(_CLOSINGS)])


def _together(query: str, draw: random.Random) -> str:
    """Some of the spaces left out, at least one."""
    words = query.split()
    gaps = [" " if draw.random() < 0.4 else "" for _ in words[1:]]
    if gaps and all(gaps):
        gaps[draw.randrange(len(gaps))] = ""
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def _doubled(query: str, draw: random.Random) -> str:
    """The double of a consonant at the beginning of one syllable, as with a shift key held too long."""
    found = [index for index, letter in enumerate(query) if (parts := _parts(letter)) and parts[0] in _DOUBLED]
    if not found:
        return query
    index = draw.choice(found)
    first, vowel, final = _parts(query[index]) or (0, 0, 0)
    letter = chr(_FIRST_SYLLABLE + (_DOUBLED[first] * _VOWELS + vowel) * _FINALS + final)
    return query[:index] + letter + query[index + 1 :]


def _in_latin_keys(query: str, draw: random.Random) -> str:
    """One word in the Latin letters of its keys, as with the wrong keyboard on."""
    words = query.split()
    index = draw.randrange(len(words))
    words[index] = "".join(_keys(letter) for letter in words[index])
    return " ".join(words)


def _decomposed(query: str, draw: random.Random) -> str:
    return normalize("NFD", query)


def _keys(letter: str) -> str:
    parts = _parts(letter)
    return _INITIAL_KEYS[parts[0]] + _VOWEL_KEYS[parts[1]] + _FINAL_KEYS[parts[2]] if parts else letter


def _parts(letter: str) -> tuple[int, int, int] | None:
    """Return the indexes of a syllable's initial, vowel and final; None for what is no syllable."""
    number = ord(letter) - _FIRST_SYLLABLE
    if not 0 <= number < 19 * _VOWELS * _FINALS:
        return None
    return number // (_VOWELS * _FINALS), number // _FINALS % _VOWELS, number % _FINALS
