"""How large an answer may be: Lambda hands 6 MB on, so texts that the caller has anyway go before the answer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .wire import encode_body

MAX_ANSWER_BYTES = 5_000_000

TEXTS_LEFT_OUT = "documents were left out, because the answer would pass 5 MB: take them from the request by index"


def fits(answer: Any) -> bool:
    """Return whether an answer is small enough to be sent as it is."""
    return len(encode_body(answer)) <= MAX_ANSWER_BYTES


def without_texts_if_too_large(answer: Any, items: Sequence[dict[str, Any]], name: str) -> bool:
    """Take the repeated texts out of an answer that is too large.

    Args:
        answer: the whole answer.
        items: the results in it.
        name: the key of the text in a result.

    Returns:
        Whether texts were taken out.
    """
    if fits(answer):
        return False
    for item in items:
        item.pop(name, None)
    return True
