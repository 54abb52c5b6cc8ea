"""The texts that the mini reranker is made from, and which of them nothing may see.

A passage's hash alone decides on which side it stands, so that every stage, every resumed run and every machine agrees:

- `held out`: a fifth of TyDi-ko. No step and no choice sees a passage of it or a question asked of one.
- `validation`: a tenth of the rest of TyDi-ko and of KoBEST's training part. Choices are made on it; no step learns from it.
- `train`: everything else. KoBEST's dev part is read by the evaluation only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ko_reranker.data.jsonl import read_record_file, read_rows
from ko_reranker.data.records import TrainingRecord
from ko_reranker.samples.paths import SAMPLE

Side = Literal["train", "validation", "held-out"]
# Aligned lines that are kept out of every stage to check alignment on.
_CHECK_SHARE = 100
_SHORTEST_CHECK = 40  # characters: shorter lines repeat


def normalised(text: str) -> str:
    """Return what the sides are drawn from. Frozen: the shipped model has learned from what this put on its side."""
    return " ".join(text.split()).casefold()


def draw_of(text: str) -> int:
    """Return the 64 bits that decide on a text's side."""
    return int.from_bytes(hashlib.sha256(normalised(text).encode()).digest()[:8])


def side_of(passage: str, *, with_held_out: bool = True) -> Side:
    """Return the side of a passage.

    Args:
        passage: its text; case and white space don't matter.
        with_held_out: whether its set has a held-out fifth.
    """
    number = draw_of(passage)
    if with_held_out and number % 5 == 0:
        return "held-out"
    return "validation" if number // 5 % 10 == 0 else "train"


@dataclass(frozen=True)
class Corpus:
    """The data folder.

    Attributes:
        folder: holds `tydiqa_ko/train.jsonl`, `kobest_boolq/{train,dev}.jsonl`, `docs_en_ko/{triplets.en,phrasebook}.jsonl.gz`
            and `parallel_en_ko/{cpp,libreoffice_help}.jsonl.gz`; docs/mini_reranker.md says where each comes from.
    """

    folder: Path

    @cached_property
    def tydi(self) -> dict[Side, list[TrainingRecord]]:
        return _sides(list(read_record_file(self.folder / "tydiqa_ko/train.jsonl")), with_held_out=True)

    @cached_property
    def kobest(self) -> dict[Side, list[TrainingRecord]]:
        return _sides(list(read_record_file(self.folder / "kobest_boolq/train.jsonl")), with_held_out=False)

    def kobest_dev(self) -> list[TrainingRecord]:
        return list(read_record_file(self.folder / "kobest_boolq/dev.jsonl"))

    def native(self, side: Side) -> list[TrainingRecord]:
        """Return the native Korean questions with their passages."""
        return [*self.tydi[side], *self.kobest[side]]

    @cached_property
    def pages(self) -> list[TrainingRecord]:
        """Return headings of documentation with the paragraph beneath and paragraphs nearby, in Korean."""
        return [korean for korean, _ in self.pages_in_both()]

    def pages_in_both(self) -> list[tuple[TrainingRecord, TrainingRecord]]:
        """Return the pages in Korean and in English.

        The records of the shipped sample are left out: the local stage trains on them and judges by them.
        """
        sample = {record.id for record in read_record_file(SAMPLE)}
        korean = {row["en"]: row["ko"] for row in read_rows(self.folder / "docs_en_ko/phrasebook.jsonl.gz")}

        def told(record: TrainingRecord) -> TrainingRecord:
            positives, negatives = (tuple(korean[text] for text in texts) for texts in (record.positives, record.negatives))
            return TrainingRecord(korean[record.query], positives, negatives, record.id)

        english = read_record_file(self.folder / "docs_en_ko/triplets.en.jsonl.gz")
        return [(told(record), record) for record in english if record.id not in sample]

    @cached_property
    def aligned(self) -> list[tuple[str, str]]:
        """Return (English, Korean) lines in the order of their documents, those of the check left out."""
        return [pair for pair in self._lines() if not _for_check(pair)]

    @cached_property
    def alignment_check(self) -> list[tuple[str, str]]:
        """Return some 1,000 (English, Korean) lines that no stage is given, each English line once."""
        return list({english: (english, korean) for english, korean in self._lines() if _for_check((english, korean))}.values())

    def native_texts(self) -> list[str]:
        """Return every native passage and question of the train side, once."""
        texts = (text for record in self.native("train") for text in (record.query, *record.positives))
        return list(dict.fromkeys(texts))

    def _lines(self) -> Iterator[tuple[str, str]]:
        for name in ("cpp", "libreoffice_help"):
            for row in read_rows(self.folder / f"parallel_en_ko/{name}.jsonl.gz"):
                yield row["en"], row["ko"]


def _sides(records: list[TrainingRecord], *, with_held_out: bool) -> dict[Side, list[TrainingRecord]]:
    """Divide records by their passage; a question asked on a stricter side, too, is taken from the other one."""
    sides: dict[Side, list[TrainingRecord]] = {"held-out": [], "validation": [], "train": []}
    for record in records:
        sides[side_of(record.positives[0], with_held_out=with_held_out)].append(record)
    seen: set[str] = set()
    for side, members in sides.items():
        sides[side] = [record for record in members if normalised(record.query) not in seen]
        seen |= {normalised(record.query) for record in members}
    return sides


def _for_check(pair: tuple[str, str]) -> bool:
    english, korean = pair
    if len(korean) < _SHORTEST_CHECK:
        return False
    return draw_of(english) % _CHECK_SHARE == 0
