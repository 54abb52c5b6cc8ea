"""Unicode's composed form (NFC) in time linear in the text, whatever is in it."""

from __future__ import annotations

import re
import unicodedata

# Where combining marks may be: from the first of them on, what Korean, Chinese and Japanese are written with left out.
_PERHAPS_MARKS = re.compile("[^\x00-\u02ff\u1100-\u11ff\u2000-\u20cf\u2100-\u2bff\u3000-\u3029\u309b-\ua66e\uac00-\ufaff]{31}")
# More marks on one letter than Unicode's own limit for streams (UAX #15) are noise, and sorting them takes quadratic time.
_MAX_MARKS = 30


def composed(text: str) -> str:
    """Return a text in NFC: Korean in decomposed letters (file names of macOS) becomes syllables."""
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
