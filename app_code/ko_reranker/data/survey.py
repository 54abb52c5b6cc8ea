"""Counting what a dataset holds and what its translation takes, in bounded memory, before anything is spent.

Texts are sharded by the hash of the text, not by record, so that a text that occurs in many records has one owner: no two
shards translate the same text. Only a shard's own keys are ever in memory together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ko_reranker.data.jsonl import dump_line, read_lines
from ko_reranker.data.records import RecordError, TrainingRecord
from ko_reranker.data.translation.packing import packs
from ko_reranker.data.translation.texts import Segment, TranslationSettings, parts_of

# Texts seen lately, so that most repetitions are not even written: some 100 bytes each.
_RECENT = 500_000
_EXAMPLES = 20

Known = Callable[[Iterable[str]], set[str]]


@dataclass(slots=True)
class Survey:
    """What a dataset holds.

    Attributes:
        counts: records, rejected_records, texts, characters, texts_in_target_language, texts_without_letters.
        reasons: why records were rejected, and how often.
        examples: the first rejected records: file, line, field, reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str | int]] = field(default_factory=list)

    def records(
        self, name: str, lines: Iterable[tuple[int, TrainingRecord | RecordError]]
    ) -> Iterator[tuple[int, TrainingRecord]]:
        """Yield a file's records and keep account of the lines that are none."""
        for number, record in lines:
            if isinstance(record, RecordError):
                self.counts["rejected_records"] += 1
                self.reasons[f"{record.field.split('[')[0]}: {record.reason}"] += 1
                if len(self.examples) < _EXAMPLES:
                    self.examples.append({"file": name, "line": number, "field": record.field, "reason": record.reason})
                continue
            self.counts["records"] += 1
            yield number, record


class TextShards:
    """A dataset's texts, each in the file of its shard; a context manager that holds the files open.

    Args:
        folder: an empty folder for the files.
        settings: of the translation.
        count: of shards.
        survey: where the texts are counted.
    """

    def __init__(self, folder: Path, settings: TranslationSettings, count: int, survey: Survey) -> None:
        self.paths = [folder / f"{index:05d}.texts" for index in range(count)]
        self._settings, self._survey = settings, survey
        self._recent: set[bytes] = set()
        self._stack = ExitStack()

    def __enter__(self) -> TextShards:
        self._files = [self._stack.enter_context(path.open("wb")) for path in self.paths]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, record: TrainingRecord) -> None:
        """Write the texts of a record that have to be translated; some of them may have been written before."""
        counts, settings = self._survey.counts, self._settings
        for text in record.texts():
            counts["texts"] += 1
            counts["characters"] += len(text)
            key = settings.key(text)
            digest = bytes.fromhex(key[:32])
            if digest in self._recent:
                continue
            treatment = settings.treatment(text)
            if treatment != "translate":
                counts["texts_without_letters" if treatment == "no_letters" else "texts_in_target_language"] += 1
                continue
            if len(self._recent) == _RECENT:
                self._recent.clear()
            self._recent.add(digest)
            self._files[int(key[:8], 16) % len(self._files)].write(dump_line({"id": key, "text": text.strip()}))


def finish_shard(texts: Path, shard: Path, settings: TranslationSettings, known: Known) -> Counter[str]:
    """Write a shard's file, each text once, and return what its translation takes.

    Args:
        texts: a file of `TextShards`; it is deleted.
        shard: the file to write.
        settings: of the translation.
        known: which of some keys the translation memory holds.

    Returns:
        distinct_texts, distinct_characters, known_texts, texts_to_translate, characters_to_translate, requests.
    """
    counts: Counter[str] = Counter()
    segments: dict[str, Segment] = {}
    seen: set[str] = set()
    with texts.open("rb") as stream, shard.open("wb") as out:
        for _, line in read_lines(stream, texts.name):
            row = json.loads(line)
            if row["id"] in seen:
                continue
            seen.add(row["id"])
            counts["distinct_texts"] += 1
            counts["distinct_characters"] += len(row["text"])
            segments |= {part.segment.key: part.segment for part in parts_of(row["text"], settings) if part.segment}
            out.write(line)
    texts.unlink()
    found = known(segments)
    missing = [segment for segment in segments.values() if segment.key not in found]
    requests = list(packs(missing))
    counts["known_texts"] = sum(key in found for key in seen)
    counts["texts_to_translate"] = len(missing)
    counts["requests"] = len(requests)
    # Packed texts stand in lines, and the line breaks are billed, too.
    counts["characters_to_translate"] = sum(len(segment.text) for segment in missing) + len(missing) - len(requests)
    return counts
