"""What a text's characters say about its language."""

from __future__ import annotations

import re

_LETTER = re.compile(r"[^\W\d_]")
# Languages that their script gives away. (Latin, Cyrillic, Arabic and Han serve many languages and prove nothing.)
_SCRIPTS = {
    "ko": re.compile(r"[가-힣ㄱ-ㆎᄀ-ᇿ]"),
    "th": re.compile(r"[\u0e01-\u0e4e]"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
}
# Korean prose about English terms keeps about this share of Hangul; English about Korea never reaches it.
_OWN_SHARE = 0.3


def has_letters(text: str) -> bool:
    """Tell whether there is anything to translate: numbers and punctuation are the same in every language."""
    return _LETTER.search(text) is not None


def script_share(text: str, language: str) -> float | None:
    """Return which share of the letters is of the language's own script, or None where the script proves nothing."""
    script = _SCRIPTS.get(language.split("-")[0])
    if script is None:
        return None
    if script.search(text) is None:
        return 0.0
    return len(script.findall(text)) / max(1, len(_LETTER.findall(text)))


def is_in_language(text: str, language: str) -> bool:
    """Tell whether a text is in a language already, as far as its script can tell."""
    share = script_share(text, language)
    return share is not None and share >= _OWN_SHARE


def letters(text: str) -> int:
    """Count the letters of a text."""
    return len(_LETTER.findall(text))
