"""Training records on disk, read one by one by their place: half a million take some megabytes of memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from pathlib import Path

from ko_reranker.container import JobError
from ko_reranker.data.jsonl import MAX_LINE_BYTES, parse_line
from ko_reranker.data.records import RecordError, TrainingRecord

_MARK = b"\xef\xbb\xbf"


class RecordFile:
    """The records of a `.jsonl` file, checked once from end to end; in memory are only their places.

    Args:
        path: the file.

    Attributes:
        sha256: of the file.
        without_negatives: how many records have no negative.
        with_scores: how many records have a teacher's score for every passage.
        with_instruction: how many records have an instruction of their own.
        longest_instruction: the place of the record with the longest one; None where none has any.

    Raises:
        JobError: the file is missing, empty, or holds a record that breaks the contract.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.without_negatives = self.with_scores = self.with_instruction = self._longest = 0
        self.longest_instruction: int | None = None
        self._offsets, self._sizes = array("Q"), array("I")
        try:
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise JobError(f"There is no {path.name} in {path.parent}: name the channel of the records `dataset`.") from None
        self.sha256 = self._read()
        if not self._sizes:
            raise JobError(f"{path} holds no record.")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> TrainingRecord:
        return parse_line(os.pread(self._file, self._sizes[index], self._offsets[index]))

    def size(self, index: int) -> int:
        """Return a record's bytes: about how much there is to compute for it, known without reading it."""
        return self._sizes[index]

    def close(self) -> None:
        os.close(self._file)

    def _read(self) -> str:
        digest, offset = hashlib.sha256(), 0
        with self.path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                digest.update(line)
                start = len(_MARK) if number == 1 and line.startswith(_MARK) else 0
                if not line[start:].isspace():
                    self._note(offset + start, line[start:], number)
                offset += len(line)
        return digest.hexdigest()

    def _note(self, offset: int, line: bytes, number: int) -> None:
        try:
            record = parse_line(line)
        except RecordError as error:
            raise JobError(f"{self.path.name} line {number}: {error}.") from None
        if record.instruction is not None:
            self.with_instruction += 1
            if len(record.instruction) > self._longest:
                self._longest, self.longest_instruction = len(record.instruction), len(self._sizes)
        self._offsets.append(offset)
        self._sizes.append(len(line))
        self.without_negatives += not record.negatives
        self.with_scores += record.positive_scores is not None and record.negative_scores is not None
