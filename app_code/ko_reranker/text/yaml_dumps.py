"""Documents that a client wrote as YAML: quoted, escaped, and folded at 80 columns in the middle of a Korean word.

Cohere's guide tells its users to send objects as ``yaml.dump(document, sort_keys=False)``. Such a text is told from any other
by doing it again: what YAML reads in it, dumped, must give the very same text. It is then rendered as an object of the request
would be, so that both rank alike.

What that costs follows the values and their characters, not the length of the text, so both are counted while the text is
scanned, and paid for before anything is done with them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from ..protocol.documents import as_lines
from .work import Allowance, TooMuchWork

# libyaml where PyYAML came with it (its wheels do), forty times faster. It dumps a little differently, so it only reads.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Scanning takes a hundredth of a second for this many characters; a longer text is no object that anybody wants ranked.
_MAX_LENGTH = 1_000_000
# What YAML may take for a number of base 60 or 10; past this length only an attacker writes one, and reading it takes long.
_HUGE_NUMBER = re.compile(r"[-+:._0-9A-Fa-fxobeE]{100}")
_MAX_DEPTH = 32
_UNLIMITED_WIDTH = 2**31 - 1
# Units of work: scanning characters; scanning an event and building its value; dumping it; dumping a character, plain or
# escaped.
_CHARACTERS_PER_UNIT, _READ_UNITS, _DUMP_UNITS, _CHARACTER_UNITS, _ESCAPED_UNITS = 64, 12, 25, 1, 3


def read_dump(text: str, allowance: Allowance) -> str | None:
    """Return what a text said before `yaml.dump`; None if it is not the dump of an object or a string.

    Raises:
        TooMuchWork: it may be one, but finding out takes more than is allowed.
    """
    if not _may_be_dump(text):
        return None
    if len(text) > _MAX_LENGTH:
        raise TooMuchWork
    allowance.spend(len(text) // _CHARACTERS_PER_UNIT)
    try:
        units = _dumping_units(text, allowance)
        if units is None:
            return None
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        if not isinstance(value, (dict, str)) or not _is_dump_of(value, text, units, allowance):
            return None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None
    return value if isinstance(value, str) else "\n".join(as_lines(_as_json(value), ""))


def _may_be_dump(text: str) -> bool:
    """Return, cheaply, whether there may be something to undo: a key or a quote first, then quotes or a folded line."""
    if text[:1] in {'"', "'"}:
        return True
    first = text.partition("\n")[0]
    return (": " in first or first.endswith(":")) and ('"' in text or "'" in text or "\n  " in text)


def _dumping_units(text: str, allowance: Allowance) -> int | None:
    """Return what dumping a text's value once takes; None if the text has what no dump of a JSON object has.

    Stops at the first such thing: nested brackets take libyaml quadratic time, aliases grow without bound.

    Raises:
        TooMuchWork: there are more values than is allowed.
    """
    depth = units = 0
    a_character = _ESCAPED_UNITS if text.isascii() else _CHARACTER_UNITS
    for event in yaml.parse(text, Loader=_Loader):
        allowance.spend(_READ_UNITS)
        units += _DUMP_UNITS
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            return None
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                return None
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and _HUGE_NUMBER.match(event.value):
                return None
            units += len(event.value) * (1 if event.value.isascii() else a_character)
    return units


def _is_dump_of(value: Any, text: str, units: int, allowance: Allowance) -> bool:
    # Only an escaping dump is ASCII throughout, and of ASCII texts both are the same.
    characters = not text.isascii()
    for width in (None, _UNLIMITED_WIDTH):
        allowance.spend(units)
        same = _Same(text.strip())
        try:
            yaml.safe_dump(value, same, width=width, sort_keys=False, allow_unicode=characters)
        except _Differs:
            continue
        if same.complete:
            return True
    return False


class _Differs(Exception):
    """A dump is another text than the one that is wanted."""


class _Same:
    """A stream that takes one text only, and white space after it: at the first difference no more is dumped."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    @property
    def complete(self) -> bool:
        """Whether the whole text was written."""
        return self._place >= len(self._text)

    def write(self, part: str) -> None:
        place, self._place = self._place, self._place + len(part)
        here = self._text[place : self._place]
        if here != part and part[: len(here)] + part[len(here) :].strip() != here:
            raise _Differs


def _as_json(value: Any) -> Any:
    """Return a value with what JSON has no type for, dates first of all, as a string."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    is_json = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)
