"""Documents that a client wrote as YAML: quoted, escaped, and folded at 80 columns in the middle of a Korean word.

Cohere's guide tells its users to send objects as ``yaml.dump(document, sort_keys=False)``. Such a text is told from any other
by doing it again: what YAML reads in it, dumped, must give the very same text. It is then rendered as an object of the request
would be, so that both rank alike.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from ..protocol.documents import as_lines

# libyaml where PyYAML came with it (its wheels do), forty times faster. It dumps a little differently, so it only reads.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Dumping takes a third of a second for this many characters; a longer text is no object that anybody wants ranked.
_MAX_LENGTH = 1_000_000
# What YAML may take for a number of base 60 or 10; past this length only an attacker writes one, and reading it takes long.
_HUGE_NUMBER = re.compile(r"[-+:._0-9A-Fa-fxobeE]{100}")
_MAX_DEPTH = 32
_UNLIMITED_WIDTH = 2**31 - 1


def read_dump(text: str) -> str | None:
    """Return what a text said before `yaml.dump`; None if it is not the dump of an object or a string."""
    if not _may_be_dump(text):
        return None
    try:
        if not _is_harmless(text):
            return None
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        if not isinstance(value, (dict, str)) or not _is_dump_of(value, text):
            return None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None
    return value if isinstance(value, str) else "\n".join(as_lines(_as_json(value), ""))


def _may_be_dump(text: str) -> bool:
    """Return, cheaply, whether there may be something to undo: a key or a quote first, then quotes or a folded line."""
    if len(text) > _MAX_LENGTH:
        return False
    if text[:1] in {'"', "'"}:
        return True
    first = text.partition("\n")[0]
    return (": " in first or first.endswith(":")) and ('"' in text or "'" in text or "\n  " in text)


def _is_harmless(text: str) -> bool:
    """Return whether a text has only what a dump of a JSON object has; stops at the first thing that it has not.

    Nested brackets take libyaml quadratic time, aliases grow without bound: neither is read any further.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            return False
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _HUGE_NUMBER.match(event.value):
            return False
    return True


def _is_dump_of(value: Any, text: str) -> bool:
    # Only an escaping dump is ASCII throughout, and of ASCII texts both are the same.
    options = {"sort_keys": False, "allow_unicode": not text.isascii()}
    wanted = text.strip()
    return any(yaml.safe_dump(value, width=width, **options).strip() == wanted for width in (None, _UNLIMITED_WIDTH))


def _as_json(value: Any) -> Any:
    """Return a value with what JSON has no type for, dates first of all, as a string."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    is_json = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)
