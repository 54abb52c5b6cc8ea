"""One spelling for one text: composed Korean, no control characters, nothing escaped or folded that a client left so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..protocol.wire import clean
from .composing import composed
from .escapes import is_escaped, json_string, unescape
from .work import Allowance, TooMuchWork
from .yaml_dumps import read_dump

# Control characters but tab and line ends, byte-order marks, and the two that are no characters.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
# Each program that a text went through may have left a layer, and each layer doubles its backslashes.
_MAX_LAYERS = 32


def normalise(text: str) -> str:
    r"""Return the text that a model should read.

    - Unicode NFC: Korean in decomposed letters (file names of macOS) becomes syllables.
    - A dump of YAML becomes the ``key: value`` lines of an object: see :mod:`.yaml_dumps`.
    - A text that a client left escaped (``\uc11c\uc6b8``) becomes readable: see :mod:`.escapes`.
    - Control characters and byte-order marks become spaces, lone surrogates U+FFFD; white space around the text goes.

    Normalising twice changes nothing; the time is linear in the text, whatever is in it, and what undoing a dump or escapes may
    take is bounded (:mod:`.work`): a text that would take more keeps them.
    """
    return _normalise(text, Allowance())[0]


def normalise_all(
    texts: Iterable[str], allowance: Allowance | None = None, between: Callable[[], None] = lambda: None
) -> tuple[list[str], list[int]]:
    """Normalise the texts of one request within what all of them together may take.

    Args:
        texts: in the order in which they may spend the allowance; equal ones are normalised once.
        allowance: None for that of a request.
        between: called before each text, such as to raise when nobody waits any more.

    Returns:
        The texts that a model should read, and the indexes of those that would have taken more than there was: they may have
        stayed escaped, or a dump.
    """
    allowance = allowance or Allowance()
    known: dict[str, tuple[str, bool]] = {}
    normalised, left_out = [], []
    for index, text in enumerate(texts):
        if text not in known:
            between()
            allowance.next_text()
            known[text] = _normalise(text, allowance)
        plain, whole = known[text]
        normalised.append(plain)
        if not whole:
            left_out.append(index)
    return normalised, left_out


def _normalise(text: str, allowance: Allowance) -> tuple[str, bool]:
    """Return the normalised text, and whether everything was undone that could be."""
    whole = True
    for _ in range(_MAX_LAYERS):
        undone, finished = _undo(text, allowance)
        whole &= finished
        plainer = _tidy(text if undone is None else undone)
        if plainer == text:
            break
        text = plainer
    return text, whole


def _undo(text: str, allowance: Allowance) -> tuple[str | None, bool]:
    """Return a text with one layer undone, None without one; and whether all was tried that could be."""
    whole = True
    try:
        # A string of JSON may be one of YAML, too, which takes far longer to find out.
        if text[:1] != '"' or json_string(text) is None or not is_escaped(text, allowance):
            dumped = read_dump(text, allowance)
            if dumped is not None:
                return dumped, True
    except TooMuchWork:
        whole = False
    try:
        escaped = "\\" in text and is_escaped(text, allowance)
        return (unescape(text, allowance) if escaped else None), whole
    except TooMuchWork:
        return None, False


def _tidy(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.strip()
    return composed(_CONTROL.sub(" ", clean(text)).strip())
