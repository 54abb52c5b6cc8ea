"""Random negatives: the filling for records that came without any."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

from ko_reranker.data.records import TrainingRecord
from ko_reranker.text import identity


def fill_negatives(
    record: TrainingRecord,
    passages: Sequence[str],
    count: int,
    seed: int,
    answers: Callable[[str], bool] = lambda passage: False,
) -> TrainingRecord:
    """Top a record's negatives up to ``count`` with random passages that are not its query, positives or negatives yet.

    The draw depends on the record's own query and the seed, so that it is the same whatever order records come in.
    Fewer than ``count`` come back only where the passages run out.

    Args:
        record: the record.
        passages: the corpus to draw from.
        count: negatives in the end.
        seed: of the draw.
        answers: whether a passage answers the query for another reason than being one of the record's positives.
    """
    missing = count - len(record.negatives)
    if missing <= 0 or not passages:
        return record
    # Not for secrecy: a stable, order-free draw.
    draw = random.Random(hashlib.sha256(f"{seed}\n{record.query}".encode()).digest())  # noqa: S311
    taken = set(map(identity, record.texts()))
    chosen: list[str] = []
    candidates = range(len(passages))
    # Oversample once instead of shuffling the whole corpus: at most this many draws can be taken already.
    for index in draw.sample(candidates, min(len(candidates), missing + len(taken) + 16)):
        passage = passages[index]
        if (same := identity(passage)) not in taken and not answers(passage):
            taken.add(same)
            chosen.append(passage)
        if len(chosen) == missing:
            break
    return record.with_negatives(record.negatives + tuple(chosen))
