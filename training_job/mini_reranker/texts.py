"""Questions made from passages alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_SHORTEST, _LONGEST, _SHORTEST_REST = 15, 120, 60  # characters


def sentences_of(passage: str) -> list[str]:
    """Return the sentences of a passage."""
    return _SENTENCE_END.split(passage)


def told_sentences(passage: str) -> Iterator[tuple[str, str]]:
    """Yield (sentence, the rest) for the sentences of a passage that are long enough: told together, they belong together."""
    sentences = sentences_of(passage)
    for place, sentence in enumerate(sentences):
        rest = " ".join(sentences[:place] + sentences[place + 1 :])
        if _SHORTEST <= len(sentence) <= _LONGEST and len(rest) >= _SHORTEST_REST:
            yield sentence, rest
