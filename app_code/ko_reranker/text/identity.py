r"""Which texts are the same text: the one normal form by which data are compared, wherever they are compared.

It is coarser than what a model reads (:mod:`.normalising`): two texts that a reader can't tell apart, or only by their case,
must not stand on both sides of a split, in a record's positives and negatives, or in two records. Standard library only, since
Lambda functions of the pipeline use it.
"""

from __future__ import annotations

import re
import unicodedata

from .composing import composed
from .escapes import is_escaped, unescape
from .work import Allowance, TooMuchWork

# What is not drawn at all: Unicode's Default_Ignorable_Code_Point, the byte-order mark and Hangul's fillers among them.
UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Control characters, the blank of Braille, and code points that are no characters: as good as white space.
_SPACE = "\x00-\x20\x7f-\x9f\u2800\ufffe\uffff"
_UNSEEN = re.compile(f"[{UNSEEN}]+")
_NO_LETTER = re.compile(f"[{_SPACE}]+")
_SOMETHING = re.compile(rf"[^\s{_SPACE}{UNSEEN}]")
# The first character of which more than white space and case may be a matter. Most Korean and English texts have none.
_UNUSUAL = re.compile(
    "[^\t\n\r\x20-\x7e\u00b0\u00b7\u00d7\u2010-\u2027\u2030-\u205e\u2190-\u22ff\u3001-\u3029\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]"
)
# Full-width Latin and half-width Korean and Japanese: the same characters in another width.
_OTHER_WIDTH = re.compile("[\uff01-\uffee]+")


def identity(text: str) -> str:
    r"""Return what two texts have in common exactly when they are the same text.

    No matter are: case; how white space and control characters are spelt; composed or decomposed letters (NFC, NFD); characters
    that are not drawn (zero-width spaces and joiners, byte-order marks, soft hyphens); full or half width; and whether a
    program left the text escaped (``\uc11c\uc6b8``). Idempotent, and linear in the text.
    """
    if "\\" in text:
        text = _unescaped(text)
    if _UNUSUAL.search(text):
        text = _OTHER_WIDTH.sub(_in_usual_width, _UNSEEN.sub("", text))
        # Folding may leave letters decomposed, and composing may leave one to fold.
        text = composed(composed(_NO_LETTER.sub(" ", text)).casefold())
    return " ".join(text.split()).casefold()


def _unescaped(text: str) -> str:
    allowance = Allowance()
    try:
        return unescape(text, allowance) if is_escaped(text, allowance) else text
    except TooMuchWork:
        return text


def is_blank(text: str) -> bool:
    """Tell whether there is nothing to read in a text: white space, control characters and what is not drawn."""
    return _SOMETHING.search(text) is None


def _in_usual_width(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match[0])
