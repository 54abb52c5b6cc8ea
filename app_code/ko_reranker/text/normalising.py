"""One spelling for one text: composed Korean, no control characters, nothing escaped or folded that a client left so."""

from __future__ import annotations

import re
import unicodedata

from ..protocol.wire import clean
from .escapes import is_escaped, unescape
from .yaml_dumps import read_dump

# Control characters but tab and line ends, byte-order marks, and the two that are no characters.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
# Where combining marks may be: from the first of them on, what Korean, Chinese and Japanese are written with left out.
_PERHAPS_MARKS = re.compile("[^\x00-\u02ff\u1100-\u11ff\u2000-\u20cf\u2100-\u2bff\u3000-\u3029\u309b-\ua66e\uac00-\ufaff]{31}")
# More marks on one letter than Unicode's own limit for streams (UAX #15) are noise, and sorting them takes quadratic time.
_MAX_MARKS = 30
# Each program that a text went through may have left a layer, and each layer doubles its backslashes.
_MAX_LAYERS = 32


def normalise(text: str) -> str:
    r"""Return the text that a model should read.

    - Unicode NFC: Korean in decomposed letters (file names of macOS) becomes syllables.
    - A dump of YAML becomes the ``key: value`` lines of an object: see :mod:`.yaml_dumps`.
    - A text that a client left escaped (``\uc11c\uc6b8``) becomes readable: see :mod:`.escapes`.
    - Control characters and byte-order marks become spaces, lone surrogates U+FFFD; white space around the text goes.

    Normalising twice changes nothing; the time is linear in the text, whatever is in it.
    """
    for _ in range(_MAX_LAYERS):
        plainer = _tidy(_undo(text))
        if plainer == text:
            break
        text = plainer
    return text


def _undo(text: str) -> str:
    dumped = read_dump(text)
    if dumped is not None:
        return dumped
    return unescape(text) if "\\" in text and is_escaped(text) else text


def _tidy(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.strip()
    text = _CONTROL.sub(" ", clean(text)).strip()
    if _PERHAPS_MARKS.search(text):
        text = _without_excess_marks(text)
    return unicodedata.normalize("NFC", text)


def _without_excess_marks(text: str) -> str:
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)
