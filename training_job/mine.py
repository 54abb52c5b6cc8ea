"""Give every training record its negatives: hard ones first, then random ones.

Hard negatives are passages that BM25 over the morphemes of their language ranks high for the query and that do not answer
it. Those that probably do (equal to a positive, nearly equal, or judged so by a teacher) are left out; what is then missing
is filled at random. Each split draws from its own passages: a dev passage in training would be seen before its question is
asked. Reads train.jsonl and dev.jsonl, writes them again, and `mining.json` with the counts; a manifest.json comes along.
With a teacher, every record also gets the scores of its passages (`pos_scores`, `neg_scores`), from which training can
learn (`distillation_weight`).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_reranker.container import JobError, ProcessingFolders
from ko_reranker.data.jsonl import read_record_file, write_json, write_jsonl
from ko_reranker.data.negatives import fill_negatives
from ko_reranker.data.records import TrainingRecord
from ko_reranker.languages import KOREAN, Language
from ko_reranker.text import identity
from training_job.false_negatives import Positives, bare

if TYPE_CHECKING:
    import numpy as np

    from ko_reranker.rankers.interface import Ranker

SPLITS = ("train", "dev")
# Candidates that a teacher judges, for each negative that is missing.
_JUDGED = 3


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """What is mined.

    Attributes:
        negatives: how many a record has in the end, unless the passages run out; more stay as they are.
        seed: of every draw.
        rank_from: the first BM25 rank to draw from; the very first are often unmarked answers.
        rank_to: the last rank to draw from.
        max_overlap: character 4-grams shared with a positive, as a share of the shorter text, from which on a passage is one.
        teacher: a reranker (hub id, s3://bucket/prefix/ or folder) that judges candidates and scores what is kept, or None.
        trust_remote_code: whether the teacher's own Python code may be run, of a folder or a pinned hub id.
        teacher_margin: by how much a candidate's logit must lie under that of the worst positive.
    """

    negatives: int = 7
    seed: int = 0
    rank_from: int = 3
    rank_to: int = 100
    max_overlap: float = 0.6
    teacher: str | None = None
    teacher_margin: float = 1.0
    trust_remote_code: bool = False


def mine(folders: ProcessingFolders, settings: MiningSettings, device: str = "auto") -> dict[str, Any]:
    """Top every record up to ``settings.negatives`` negatives and return the counts, also written to `mining.json`.

    Args:
        folders: where the job finds its input and leaves its output.
        settings: what is mined.
        device: where the teacher computes: auto, cpu or cuda.
    """
    if settings.rank_to < settings.rank_from:
        raise JobError(f"The last rank, {settings.rank_to}, is before the first, {settings.rank_from}.")
    folders.output.mkdir(parents=True, exist_ok=True)
    teacher = _load(settings, device)
    language = folders.language
    report: dict[str, Any] = {"method": "bm25-morphemes", "settings": asdict(settings)}
    for split in SPLITS:
        path = folders.dataset / f"{split}.jsonl"
        if not path.is_file():
            if split == "train":
                raise JobError(f"There is no train.jsonl in {folders.dataset}.")
            continue
        records = read_dataset(path)
        counts: Counter[str] = Counter()
        mined = mine_records(records, settings, counts, teacher, language)
        write_jsonl(folders.output / path.name, (record.to_json() for record in mined))
        names = (
            *("dropped_negatives", "mined", "random", "equal_to_the_query", "equal_to_a_positive", "overlapping_a_positive"),
            "refused_by_the_teacher",
        )
        report[split] = {
            "records": len(records),
            "passages": counts["passages"],
            "records_without_negatives_before": sum(not record.negatives for record in records),
            "negatives_before": sum(len(record.negatives) for record in records),
            "negatives_after": counts["negatives"],
            **{name: counts[name] for name in names},
        }
    write_json(folders.output / "mining.json", report)
    # The run card names what the model was trained on by the manifest's hash, mined or not.
    manifest = folders.dataset / "manifest.json"
    if manifest.is_file():
        shutil.copyfile(manifest, folders.output / manifest.name)
    return report


def mine_records(
    records: Sequence[TrainingRecord],
    settings: MiningSettings,
    counts: Counter[str],
    teacher: Ranker | None = None,
    language: Language = KOREAN,
) -> Iterator[TrainingRecord]:
    """Yield the records of one split, in their order, with negatives from the split's own passages."""
    # One of each passage, whatever its spellings; the last of them in their order, so that the records' order is no matter.
    passages = sorted(
        {identity(text): text for text in sorted({text for record in records for text in record.passages()})}.values()
    )
    counts["passages"] = len(passages)
    positives: dict[str, list[str]] = defaultdict(list)
    for record in records:
        positives[identity(record.query)] += record.positives
    records = [_without_false_negatives(record, positives[identity(record.query)], counts) for record in records]
    # A record that has enough is spared the search.
    short = [record for record in records if len(record.negatives) < settings.negatives]
    ranked = _ranked(short, passages, settings, language)
    for record in records:
        judge = _Judge(teacher, record.query) if teacher else None
        if len(record.negatives) < settings.negatives:
            right = Positives(positives[identity(record.query)], settings.max_overlap)
            found = [passages[index] for index in next(ranked)[settings.rank_from - 1 :]]
            mined = _hard(record, found, right, settings, counts, judge)
            counts["mined"] += len(mined.negatives) - len(record.negatives)
            filled = fill_negatives(mined, passages, settings.negatives, settings.seed, _is_answer(right, record.query))
            counts["random"] += len(filled.negatives) - len(mined.negatives)
            record = filled
        counts["negatives"] += len(record.negatives)
        yield judge.scored(record) if judge else record


def _ranked(
    records: Sequence[TrainingRecord], passages: Sequence[str], settings: MiningSettings, language: Language
) -> Iterator[np.ndarray]:
    if records:
        from ko_reranker.evaluation.bm25 import Bm25

        index = Bm25(passages, language=language, terms="morphemes", workers=os.cpu_count() or 1)
        yield from index.best([record.query for record in records], settings.rank_to)


def _without_false_negatives(record: TrainingRecord, right: Sequence[str], counts: Counter[str]) -> TrainingRecord:
    """Drop the negatives that are the query itself or one of its positives, and count them."""
    answers = {identity(record.query), *map(identity, right)}
    indexes = [index for index, text in enumerate(record.negatives) if identity(text) not in answers]
    counts["dropped_negatives"] += len(record.negatives) - len(indexes)
    return record.with_negatives_at(indexes)


def _is_answer(right: Positives, query: str) -> Callable[[str], bool]:
    same = bare(query)
    return lambda passage: right.equal(passage) or bare(passage) == same


def _hard(
    record: TrainingRecord,
    found: list[str],
    right: Positives,
    settings: MiningSettings,
    counts: Counter[str],
    judge: _Judge | None,
) -> TrainingRecord:
    """Add hard negatives, drawn from what BM25 found in an order that depends on seed and query alone."""
    missing = settings.negatives - len(record.negatives)
    draw = random.Random(hashlib.sha256(f"{settings.seed}\nhard\n{record.query}".encode()).digest())  # noqa: S311
    draw.shuffle(found)
    taken, query = {bare(text) for text in record.negatives}, bare(record.query)
    chosen: list[str] = []
    for passage in found:
        if len(chosen) == missing * (_JUDGED if judge else 1):
            break
        if bare(passage) in taken:
            continue
        if bare(passage) == query:
            counts["equal_to_the_query"] += 1
        elif right.equal(passage):
            counts["equal_to_a_positive"] += 1
        elif right.overlaps(passage):
            counts["overlapping_a_positive"] += 1
        else:
            taken.add(bare(passage))
            chosen.append(passage)
    if judge and chosen:
        limit = min(judge.scores(record.positives)) - settings.teacher_margin
        scores = judge.scores(chosen)
        judged = len(chosen)
        chosen = [passage for passage, score in zip(chosen, scores, strict=True) if score <= limit]
        counts["refused_by_the_teacher"] += judged - len(chosen)
    return record.with_negatives(record.negatives + tuple(chosen[:missing])) if chosen else record


class _Judge:
    """A teacher's scores of one query's passages, each asked for once."""

    def __init__(self, teacher: Ranker, query: str) -> None:
        self._teacher, self._query = teacher, query
        self._known: dict[str, float] = {}

    def scores(self, passages: Sequence[str]) -> tuple[float, ...]:
        """Return the teacher's logits of some passages."""
        fresh = [passage for passage in dict.fromkeys(passages) if passage not in self._known]
        if fresh:
            self._known |= zip(fresh, map(float, self._teacher.score(self._query, fresh)), strict=True)
        return tuple(self._known[passage] for passage in passages)

    def scored(self, record: TrainingRecord) -> TrainingRecord:
        """Return the record with the scores of all its passages."""
        return replace(record, positive_scores=self.scores(record.positives), negative_scores=self.scores(record.negatives))


def _load(settings: MiningSettings, device: str) -> Ranker | None:
    if settings.teacher is None:
        return None
    from ko_reranker.models import ModelNotFoundError
    from ko_reranker.rankers import EngineOptions, RankerError, load_ranker

    try:
        teacher = load_ranker(settings.teacher, EngineOptions(device=device), trust_remote_code=settings.trust_remote_code)
    except (ModelNotFoundError, RankerError) as error:
        raise JobError(f"The teacher: {error}") from error
    if not teacher.absolute:
        teacher.close()
        raise JobError(
            f"The teacher {settings.teacher} compares documents and gives no scores, only their order: name one that scores."
        )
    return teacher


def read_dataset(path: Path) -> list[TrainingRecord]:
    """Return the records of a joined dataset.

    Raises:
        JobError: the file is missing, empty, or holds a record that breaks the contract.
    """
    try:
        records = list(read_record_file(path))
    except FileNotFoundError:
        raise JobError(f"There is no {path.name} in {path.parent}.") from None
    except ValueError as error:
        raise JobError(f"{error}.") from None
    if not records:
        raise JobError(f"{path} holds no record.")
    return records
