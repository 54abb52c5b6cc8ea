"""Korean.

The bounds of translations are set by 33,589 English-Korean pairs of published documentation (Microsoft's C++ pages,
LibreOffice's help), of which they refuse two in a thousand, nearly all with reason: other figures, paragraphs that were never
translated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from .language import Analyser, Language

# Sejong tags of what carries meaning: nouns, verbs and adjectives, modifiers, roots, foreign words, numerals.
# Particles and endings, which make every Korean word look different, are left out.
_CONTENT = ("NN", "NR", "NP", "VV", "VA", "MM", "MAG", "XR", "SL", "SH", "SN")
# Longer than any word of the language: what is longer is a URL, Base64, or noise.
_LONGEST_WORD = 100
_LONGEST_RUN = 10
_RUN = re.compile(rf"(\S)\1{{{_LONGEST_RUN},}}")
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD}}}(?=\S)")
_LONGEST_PIECE = 4_000
_PIECE = re.compile(rf"(?s:.{{1,{_LONGEST_PIECE}}})(?:\s|$)")


def _analyser(workers: int) -> Analyser:
    """Return the analyser of Korean: content morphemes, each with the first two letters of its tag."""

    def analyse(texts: Sequence[str]) -> list[list[str]]:
        pieces = [_pieces(text) for text in texts]
        tokens = iter(_kiwi(workers).tokenize([piece for parts in pieces for piece in parts]))
        return [
            [f"{token.form.lower()}/{token.tag[:2]}" for _ in parts for token in next(tokens) if token.tag.startswith(_CONTENT)]
            for parts in pieces
        ]

    return analyse


@cache
def _kiwi(workers: int) -> Any:
    """Kiwi: its models take seconds to load, and serve every corpus."""
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=workers)


def _pieces(text: str) -> list[str]:
    """Return a text in pieces that Kiwi takes bounded time for.

    Its time is quadratic in a run of one character and in a word without a break, a URL, say. Texts of ordinary length and
    words are one piece, as they are.
    """
    if len(text) > _LONGEST_WORD:
        text = _RUN.sub(lambda run: run[0][:_LONGEST_RUN], text)
        text = _LONG_WORD.sub(r"\g<0> ", text)
    return _PIECE.findall(text) if len(text) > _LONGEST_PIECE else [text]


KOREAN = Language(
    code="ko",
    name="Korean",
    script=re.compile(r"[가-힣ㄱ-ㆎᄀ-ᇿ]"),
    # Korean prose about English terms keeps about this share of Hangul; English about Korea never reaches it.
    own_share=0.3,
    least_shares=((400, 0.15), (150, 0.10), (60, 0.05), (20, 0.02)),
    length_ratios=((150, 0.12, 2.5), (20, 0.06, 5.0)),
    # Korean counts in other units: 1.5 million is 150만.
    other_units=re.compile(r"(?i)\b(thousand|million|billion|trillion|dozens?|[ap]\.?m\b)"),
    analyser=_analyser,
)
