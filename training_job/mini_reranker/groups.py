"""Stage 4: the records that the cross-encoder is fine-tuned on, with the project's own miner.

Three kinds of question: native ones (TyDi-ko, KoBEST), sentences of native passages against the rest of their passage, and
headings of documentation against their section. All passages of a side together are what the miner searches for wrong ones.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from training_job.mine import MiningSettings, mine_records
from training_job.mini_reranker.corpus import Corpus, Side
from training_job.mini_reranker.texts import told_sentences

# Validation questions of each set that the trainer looks at, from the very passages that choices are made on.
_MINING = MiningSettings(negatives=10, rank_from=1, rank_to=40, max_overlap=0.5)


@dataclass(frozen=True)
class Mixture:
    """How many records of each kind there are; None takes all.

    Attributes:
        told: sentences against the rest of their passage.
        headings: headings against their section.
        seed: of the draw.
    """

    told: int | None = 1500
    headings: int | None = 1000
    seed: int = 0


def write_groups(corpus: Corpus, mixture: Mixture, folder: Path) -> dict[str, int]:
    """Write train.jsonl and dev.jsonl with their negatives, and return the number of records of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(mixture.seed)  # noqa: S311  a seeded draw, no secret
    kinds = {
        "questions": _plain(corpus.native("train")),
        "told": _drawn(_told(corpus, "train"), mixture.told, draw),
        "headings": _drawn(_plain(corpus.pages), mixture.headings, draw),
    }
    counts: Counter[str] = Counter()
    train = [record for records in kinds.values() for record in records]
    # Native and documentation are searched apart: a wrong passage of the other kind is too easy to tell.
    native, pages = [*kinds["questions"], *kinds["told"]], kinds["headings"]
    mined = [*mine_records(native, _MINING, counts), *mine_records(pages, _MINING, counts)]
    write_jsonl(folder / "train.jsonl", (record.to_json() for record in mined))
    dev = mine_records(_plain(corpus.native("validation")), _MINING, counts)
    written = write_jsonl(folder / "dev.jsonl", (record.to_json() for record in dev))
    return {name: len(records) for name, records in kinds.items()} | {"train": len(train), "dev": written, **counts}


def _plain(records: Sequence[TrainingRecord]) -> list[TrainingRecord]:
    return [TrainingRecord(record.query, record.positives, record.negatives, record.id) for record in records]


def _told(corpus: Corpus, side: Side) -> list[TrainingRecord]:
    passages = dict.fromkeys(record.positives[0] for record in corpus.native(side))
    return [TrainingRecord(sentence, (rest,)) for passage in passages for sentence, rest in told_sentences(passage)]


def _drawn(records: list[TrainingRecord], count: int | None, draw: random.Random) -> list[TrainingRecord]:
    if count is None or count >= len(records):
        return records
    return draw.sample(records, count)
