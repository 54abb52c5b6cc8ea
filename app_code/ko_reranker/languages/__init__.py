"""The languages that rerankers are made for, and the table of them: adding one is a module and a line in ``LANGUAGES``.

A dataset may come in any language that Amazon Translate knows. What it is translated to is checked, searched and mined by the
rules of that language, so that only a language with an entry here can be a target. Pure standard library: an analyser is
imported when it is asked for.
"""

from __future__ import annotations

from .korean import KOREAN
from .language import Analyser, Language, count_letters, has_letters

__all__ = ["KOREAN", "LANGUAGES", "Analyser", "Language", "UnknownLanguageError", "count_letters", "find", "has_letters"]

LANGUAGES = {language.code: language for language in (KOREAN,)}


class UnknownLanguageError(ValueError):
    """Nobody can say whether a text in this language was translated well, nor search it; the message says which can be."""


def find(code: str) -> Language:
    """Return a language by Amazon Translate's code.

    Raises:
        UnknownLanguageError: it is none of `LANGUAGES`.
    """
    if code not in LANGUAGES:
        known = " or ".join(f"{language.code} ({language.name})" for language in LANGUAGES.values())
        raise UnknownLanguageError(
            f"must be {known}, is {code!r}: a translation into another language could be neither checked nor searched "
            "(docs/data.md, Languages)"
        )
    return LANGUAGES[code]
