"""Cutting a text that is too long for one request, at the best place there is."""

from __future__ import annotations

import re
import unicodedata

# The end of a sentence, closing quotes and brackets included, with the white space after it; or the end of a line.
_SENTENCE_END = re.compile(r"""[.!?…。！？][)\]"'”’»」』]*\s+|[。！？][」』）]*|\n+""")
_SPACE = re.compile(r"\s+")
# What holds two characters together, besides combining marks.
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")
# What ends this early in what fits is no place to cut: the parts would come out tiny.
_EARLIEST = 0.3
# The longest run of combining marks that is kept whole.
_LONGEST_CLUSTER = 32


def split_text(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most ``limit`` bytes of UTF-8 each; the parts joined are the text.

    Cuts are made at the last sentence end that fits, else at white space, else between two characters.

    Args:
        text: any text without lone surrogates.
        limit: bytes, at least 4 (the longest character).
    """
    parts = []
    rest = text.encode()
    while len(rest) > limit:
        fitting = rest[:limit].decode(errors="ignore")
        part = fitting[: _cut(fitting, rest)]
        parts.append(part)
        rest = rest[len(part.encode()) :]
    parts.append(rest.decode())
    return parts


def _cut(fitting: str, rest: bytes) -> int:
    earliest = int(len(fitting) * _EARLIEST)
    for pattern in (_SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(fitting, earliest)]
        if ends:
            return ends[-1]
    following = rest[len(fitting.encode()) :][: 4 * 2].decode(errors="ignore")[:1]
    cut = len(fitting)
    # Never between a letter and its marks, unless there is nothing but marks.
    while cut > max(1, len(fitting) - _LONGEST_CLUSTER) and _belongs_to_the_left(following, fitting[cut - 1]):
        cut -= 1
        following = fitting[cut]
    return cut


def _belongs_to_the_left(char: str, before: str) -> bool:
    return bool(char) and (unicodedata.combining(char) != 0 or char in _JOINERS or before == "\u200d")
