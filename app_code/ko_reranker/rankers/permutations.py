"""From what a language model wrote to an order: whatever it is, every document comes once, and what was wrong is counted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_THOUGHT_ENDS = "</think>"
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_LISTED = re.compile(r"^[ \t]*\d{1,3}[.):][ \t]+(?=[^>\n]*[\dA-Z])", re.ASCII | re.MULTILINE)
# Korean endings follow a letter without a space.
_NUMBER, _LETTER = re.compile(r"\d+", re.ASCII), re.compile(r"(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9])")


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
    in brackets wherever they stand; full-width, circled and raised ones as the plain ones.

    Args:
        answer: any text.
        labels: of the documents, all numbers or all capital letters, as in ``["1", "2"]``.

    Returns:
        Places of documents among the labels, each once.
    """
    text = _plain(answer.rpartition(_THOUGHT_ENDS)[2])
    kind = _NUMBER if labels and labels[0].isdecimal() else _LETTER
    named = [label for inside in _BRACKETS.findall(text) for label in kind.findall(inside.upper())]
    # 1. Passage 3, 2. Passage 1: the numbers of such lines are places.
    named = named or kind.findall(_LISTED.sub("", text))
    place_of = {label: place for place, label in enumerate(labels)}
    # As text: a number may have more digits than any label, and than int takes.
    places = [place_of.get(label.lstrip("0") if kind is _NUMBER else label) for label in named]
    known = [place for place in places if place is not None]
    order = list(dict.fromkeys(known))
    missing = [place for place in range(len(labels)) if place not in set(order)]
    shaped = " > ".join(f"[{label}]" for label in named) == text.strip() and bool(named)
    return order + missing, Faults(
        misshapen=not shaped,
        repeated=len(known) - len(order),
        unknown=len(places) - len(known),
        missing=len(missing),
    )


def _plain(text: str) -> str:
    # Circled numbers stand apart, whatever they stand beside.
    apart = "".join(f" {char} " if unicodedata.decomposition(char).startswith("<circle>") else char for char in text)
    return unicodedata.normalize("NFKC", apart)
