"""What a conversion met, and what it left out: nothing goes in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ko_reranker.data.conversion.columns import Names
from ko_reranker.data.tables import Reading

Format = Literal["auto", "records", "pairs", "triplets", "pointwise", "lists", "qrels", "ids", "beir"]
_EXAMPLES = 20


@dataclass(slots=True)
class Conversion:
    """What a conversion met; it fills as the records are taken.

    Attributes:
        rows: rows read.
        left_out: how many rows were left out, by reason.
        examples: the first of them: file, line (0 where there is none), what is wrong.
        dropped: how many passages, scores or columns were left out of records that came through, by what they are.
        notes: what else should be known, such as files that were not read.
        kind: the format that was read.
    """

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, int, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)
    kind: str = ""

    def leave_out(self, name: str, line: int, reason: str, detail: str = "", rows: int = 1) -> None:
        """Count rows that give no record.

        Args:
            name: the file's.
            line: where, 0 for nowhere in particular.
            reason: in words that are the same for all rows of this kind.
            detail: what is particular of this one.
            rows: how many.
        """
        self.left_out[reason] += rows
        if len(self.examples) < _EXAMPLES:
            self.examples.append((name, line, f"{reason}{detail}"))

    def note(self, sentence: str) -> None:
        """Keep a sentence, once."""
        self.notes[sentence] = None


@dataclass(frozen=True, slots=True)
class Options:
    """How a source is to be understood.

    Attributes:
        kind: its format; ``auto`` sees it from the input.
        threshold: a label above it is positive; None is 0, and refuses fractions, which could mean anything.
        names: columns that the caller names.
        header: whether a table's first line names its columns; None sees it from the line.
        corpus, queries: the texts of ids, for judgements that hold ids only.
        split: which judgements of a BEIR folder to read.
        reading: how files are read.
    """

    kind: Format = "auto"
    threshold: float | None = None
    names: Names = field(default_factory=Names)
    header: bool | None = None
    corpus: Path | None = None
    queries: Path | None = None
    split: str | None = None
    reading: Reading = field(default_factory=Reading)
