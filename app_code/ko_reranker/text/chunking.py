"""Where a long document is cut into overlapping chunks; the best chunk's score is the document's.

Positions count tokens of the document alone, so the caller owns the tokenizer and nothing here depends on a model.
"""

from __future__ import annotations

Span = tuple[int, int]


def spans(
    length: int,
    window: int,
    overlap: int = 0,
    max_chunks: int | None = None,
    *,
    max_tokens: int | None = None,
) -> list[Span]:
    """Return the chunks of a document as half-open ranges of its tokens, in order.

    A document that fits is one chunk. Else every chunk has ``window`` tokens: the last one is moved back to end where the
    document ends, so that no short rest is scored without its context.

    Args:
        length: tokens of the document.
        window: tokens that fit into the model beside the query, at least 1.
        overlap: tokens that neighbours share, so that what one chunk's end cuts apart is whole in the next. Counted as at
            most half of the window: no token is read more than twice, the last chunk aside.
        max_chunks: at most this many chunks, from the document's start on; None for as many as it takes.
        max_tokens: what comes after this many tokens of the document is not read; None for all.

    Returns:
        At least one range; the document's end was cut off if the last one ends before ``length``.

    Raises:
        ValueError: a limit that leaves nothing to read.
    """
    for name, value in (("window", window), ("max_chunks", max_chunks), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, is {value}")
    if length < 0 or overlap < 0:
        raise ValueError(f"length and overlap must not be negative, are {length} and {overlap}")
    end = length if max_tokens is None else min(length, max_tokens)
    if end <= window:
        return [(0, end)]
    step = window - min(overlap, window // 2)
    needed = 1 + -(-(end - window) // step)
    if max_chunks is not None and max_chunks < needed:
        return [(start * step, start * step + window) for start in range(max_chunks)]
    return [(start * step, start * step + window) for start in range(needed - 1)] + [(end - window, end)]
