"""Does an answer win wherever it stands in a long document? The needle test.

For each question of a few, its passage is put at each of ten positions of documents of several lengths, between lines of other
subjects; its rivals are documents of the same length and of the same lines with another question's passage instead. A question
is won at a position if its document scores above all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ko_reranker.rankers import Ranker
from training_job.mini_reranker.corpus import Corpus

LENGTHS = (500, 1_000, 2_000, 4_000, 8_000)  # characters of a document
POSITIONS = 10
RIVALS = 5
QUESTIONS = 12


def needle_table(
    ranker: Ranker, corpus: Corpus, *, lengths: Sequence[int] = LENGTHS, questions: int = QUESTIONS
) -> dict[str, list[float]]:
    """Return for each length, in characters, the share of questions won at each of the ten positions, first to last.

    The questions are of the validation side of TyDi-ko, those with the shortest passages, which leave room to be moved; their
    rivals' passages are of the same side.
    """
    records = sorted(corpus.tydi["validation"], key=lambda record: len(record.positives[0]))[:questions]
    passages = [record.positives[0] for record in records]
    lines = list(dict.fromkeys(korean for _, korean in corpus.alignment_check))
    table: dict[str, list[float]] = {}
    for length in lengths:
        won = np.zeros((len(records), POSITIONS))
        for index, record in enumerate(records):
            needles = [_document(passages[index], lines, length, position) for position in range(POSITIONS)]
            # The passages that come next in the list, which are about as long, are the rivals'; they stand here and there.
            others = [passages[(index + step) % len(passages)] for step in range(1, 1 + RIVALS)]
            rivals = [
                _document(other, lines, length, position * POSITIONS // RIVALS)
                for position, other in enumerate(others)
                if other not in record.positives
            ]
            scores = ranker.score(record.query, [*needles, *rivals])
            won[index] = scores[:POSITIONS] > scores[POSITIONS:].max()
        table[str(length)] = won.mean(0).round(3).tolist()
    return table


def summary(table: dict[str, list[float]]) -> dict[str, Any]:
    """Return the share won over all positions by length, and the least of any length and position."""
    by_length = {length: round(float(np.mean(shares)), 3) for length, shares in table.items()}
    return {"won": by_length, "least": min(min(shares) for shares in table.values())}


def _document(passage: str, lines: Sequence[str], length: int, position: int) -> str:
    """Return a document of about so many characters with the passage at a position of 0 (first) to 9 (last)."""
    filling, used = [], len(passage)
    for line in lines:
        if used + len(line) >= length:
            break
        filling.append(line)
        used += len(line) + 1
    at = round(len(filling) * position / (POSITIONS - 1))
    return "\n".join([*filling[:at], passage, *filling[at:]])
