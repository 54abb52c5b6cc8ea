"""What is accepted as a translation; the bounds are those of the language that it is in."""

from __future__ import annotations

import re
from collections import Counter

from ko_reranker.languages import Language, count_letters
from ko_reranker.text import identity, is_blank

# Markup that keeps a term from being translated; it is the service's own business and no part of a text.
_MARKER = re.compile(r"(?i)(?<![a-z])_*dnt(?![a-z])|notranslate|translate\s*=\s*[\"']?no\b")
_LINK = re.compile(r"\]\(([^()\s]+)")
_LOCALE = re.compile(r"(?i)/[a-z]{2}-[a-z]{2}/")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+")
_SQL = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WITH|GRANT|TRUNCATE|MERGE)\s+\S")
_MARKS = set("{}()[];=<>_/\\|&*$#@\"'`+:~^-")
_SHARE_OF_MARKS = 0.12
_LONGEST_NAME = 6


def problem(source: str, translation: str, target: Language) -> str | None:
    """Return why a translation is not to be trained on, or None for one that is.

    Args:
        source: the text.
        translation: what came back.
        target: the language that it is to be in.
    """
    if is_blank(translation):
        return "came back empty"
    if _same(source, translation):
        return None if is_name(source) else "came back as it was"
    share, letters = target.share(translation), count_letters(translation)
    # A name that comes back with its case or its spaces changed is none the worse.
    if (share == 0.0 and not is_name(source)) or share < target.least_share(letters):
        return f"came back with {share:.0%} of its {letters} letters in the script of {target.code}"
    if broken := _broken(source, translation, target):
        return broken
    ratio, bounds = len(translation) / len(source), target.length_ratio(len(source))
    if bounds and not bounds[0] <= ratio <= bounds[1]:
        return f"came back {ratio:.2g} times as long as its source"
    return None


def is_name(text: str) -> bool:
    """Tell whether a text is its own translation: a name or code (``HDMI``, ``Visual Studio 2022``, a line of SQL)."""
    text = text.strip()
    words = text.split()
    if len(words) == 1:
        return any(char.isupper() for char in text[1:]) or not text.isalpha()
    return bool(words) and (_is_product(words) or _is_code(text))


def _is_product(words: list[str]) -> bool:
    """Tell whether words are a name with a version or an acronym; a heading's capitals alone are no sign of one."""
    named = all(word[0].isupper() or word[0].isdigit() or not word[0].isalnum() for word in words)
    return named and len(words) <= _LONGEST_NAME and any(any(c.isdigit() or c.isupper() for c in word[1:]) for word in words)


def _is_code(text: str) -> bool:
    marks = sum(char in _MARKS for char in text)
    return _SQL.match(text) is not None or marks >= _SHARE_OF_MARKS * len(text)


def _broken(source: str, translation: str, target: Language) -> str | None:
    """Return what of a text that must come through a translation as it is did not: links, numbers; or what leaked into it."""
    if _MARKER.search(translation) and not _MARKER.search(source):
        return "came back with a marker of the service's own in it"
    if _links(source) != _links(translation):
        return "came back with other links"
    before, after = _numbers(source), _numbers(translation)
    if before - after and after - before and not target.other_units.search(source):
        return "came back with other numbers"
    return None


def _links(text: str) -> Counter[str]:
    # A page in another language is the same page.
    return Counter(_LOCALE.sub("/", target).casefold() for target in _LINK.findall(text))


def _numbers(text: str) -> Counter[str]:
    return Counter(number.lstrip("0") for number in _NUMBER.findall(_THOUSANDS.sub("", text)))


def _same(one: str, other: str) -> bool:
    return identity(one) == identity(other)
