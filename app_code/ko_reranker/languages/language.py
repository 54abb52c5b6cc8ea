"""What a language is to this library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

_LETTER = re.compile(r"[^\W\d_]")


class Analyser(Protocol):
    """Cuts texts of a language into what a search compares."""

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Return each text's terms: its content words or morphemes in their basic forms, without stop words.

        No term is a plain pair of characters, which a search may have beside them: each has a tag, as ``서울/NN`` has.
        """
        ...


@dataclass(frozen=True, slots=True)
class Language:
    """A language: how it is recognised, what is accepted as a translation into it, and how it is searched.

    Attributes:
        code: Amazon Translate's.
        name: in English.
        script: its own letters, which no other language uses.
        own_share: the share of a text's letters, 0..1, from which on it is in this language already.
        least_shares: letters of a translation from which on the share of its own script counts, and the least share from there
            on; the most letters first.
        length_ratios: characters of a source from which on lengths are compared, and the least and the largest ratio of
            translation to source from there on; the most characters first.
        other_units: what tells in a source that its figures may come out as others, such as millions.
        analyser: threads to the analyser; it may take seconds to load.
    """

    code: str
    name: str
    script: re.Pattern[str]
    own_share: float
    least_shares: tuple[tuple[int, float], ...]
    length_ratios: tuple[tuple[int, float, float], ...]
    other_units: re.Pattern[str]
    analyser: Callable[[int], Analyser]

    def share(self, text: str) -> float:
        """Return which share of a text's letters is of the language's own script, 0..1."""
        if self.script.search(text) is None:
            return 0.0
        return len(self.script.findall(text)) / max(1, count_letters(text))

    def owns(self, text: str) -> bool:
        """Tell whether a text is in the language already."""
        return self.share(text) >= self.own_share

    def least_share(self, letters: int) -> float:
        """Return the least share of its own script that so many letters of a translation must have."""
        return next((least for size, least in self.least_shares if letters >= size), 0.0)

    def length_ratio(self, characters: int) -> tuple[float, float] | None:
        """Return the least and the largest ratio of lengths for a source of so many characters; None for a short one."""
        return next(((low, high) for size, low, high in self.length_ratios if characters >= size), None)


def has_letters(text: str) -> bool:
    """Tell whether there is anything to translate: numbers and punctuation are the same in every language."""
    return _LETTER.search(text) is not None


def count_letters(text: str) -> int:
    """Count the letters of a text, of whatever script."""
    return len(_LETTER.findall(text))
