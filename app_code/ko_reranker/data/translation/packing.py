"""Many short texts in one request, a line each, and the proof that they came back one to one.

A request takes 10,000 bytes whether they are one text or a hundred, and an account's requests a second are limited: packed,
half a million records need some fifteen times fewer. Amazon Translate keeps line breaks. Where it did not, or where a number
turned up with its neighbour, the whole answer is refused and the texts go one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ko_reranker.data.translation.texts import MAX_REQUEST_BYTES, Segment

# DynamoDB writes at most 100 items in one transaction, and a pack is claimed and stored in one.
MAX_SEGMENTS = 100
_NUMBER = re.compile(r"\d{2,}")

Pack = tuple[Segment, ...]


def packs(segments: Iterable[Segment], limit: int = MAX_REQUEST_BYTES, most: int = MAX_SEGMENTS) -> Iterator[Pack]:
    """Group segments into requests, in their order; a segment that can't share a request has one of its own."""
    current: list[Segment] = []
    size = 0
    for segment in segments:
        if not is_packable(segment.text):
            yield (segment,)
            continue
        added = segment.size + (1 if current else 0)
        if current and (size + added > limit or len(current) == most):
            yield tuple(current)
            current, size, added = [], 0, segment.size
        current.append(segment)
        size += added
    if current:
        yield tuple(current)


def is_packable(text: str) -> bool:
    """Tell whether a text's lines are lines for the service, too: Unicode knows nine more line breaks than ``\\n``."""
    return text.split("\n") == text.splitlines()


def packed(texts: Sequence[str]) -> str:
    """Return the text of the request."""
    return "\n".join(texts)


def unpacked(texts: Sequence[str], answer: str) -> list[str] | None:
    """Return the translation of each text, or None for an answer that can't be proved to be one to one.

    Args:
        texts: what was sent, none of them blank at an end.
        answer: what came back for them all.
    """
    if len(texts) == 1:
        return [answer.strip()]
    sent = packed(texts).split("\n")
    received = answer.split("\n")
    # A blank line within a text must be blank in the answer, and no other.
    if [not line.strip() for line in sent] != [not line.strip() for line in received]:
        return None
    translations, start = [], 0
    for text in texts:
        end = start + text.count("\n") + 1
        translations.append("\n".join(received[start:end]).strip())
        start = end
    return None if _is_shifted(texts, translations) else translations


def _is_shifted(texts: Sequence[str], translations: Sequence[str]) -> bool:
    """Tell whether a text's numbers stand in the translation of the text before or after it."""
    numbers = [set(_NUMBER.findall(text)) for text in texts]
    found = [set(_NUMBER.findall(text)) for text in translations]
    for index, own in enumerate(numbers):
        if own and not own & found[index]:
            for neighbour in (index - 1, index + 1):
                if 0 <= neighbour < len(texts) and own & (found[neighbour] - numbers[neighbour]):
                    return True
    return False
