"""Stage 4: the records that the cross-encoder is fine-tuned on, with the project's own miner.

Native questions (`tydi`, `kobest`), headings of documentation against their section, and what `asked` makes of both's texts.
Records of one pool together are what the miner searches for wrong passages: one of another kind is too easy to tell.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from training_job.mine import MiningSettings, mine_records
from training_job.mini_reranker import asked
from training_job.mini_reranker.corpus import Corpus

_MINING = MiningSettings(negatives=10, rank_from=1, rank_to=40, max_overlap=0.5)
# What is searched apart from the native passages.
_POOLS = {"headings": "documentation", "mixed": "documentation", "reports": "reports"}


@dataclass(frozen=True)
class Mixture:
    """How many records of each kind there are.

    Attributes:
        counts: of native questions, of headings and of each kind of `asked.KINDS`; None takes all, and what is not named is
            left out.
        seed: of the draw.
    """

    counts: Mapping[str, int | None] = field(
        default_factory=lambda: {
            "tydi": None,
            "kobest": 1600,  # of 3,333: their words stand in the passage, which is soon learnt
            "headings": 600,
            "told": 1000,
            "stated": 700,
            "masked": 500,
            "titles": 400,
            "terms": 800,
            "typed": 700,
            "swapped": 700,
            "reports": None,
            "mixed": 300,
        }
    )
    seed: int = 0


def write_groups(corpus: Corpus, mixture: Mixture, folder: Path) -> dict[str, int]:
    """Write train.jsonl and dev.jsonl with their negatives, and return the number of records of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(mixture.seed)  # noqa: S311  a seeded draw, no secret
    sources = {"tydi": corpus.tydi["train"], "kobest": corpus.kobest["train"], "headings": corpus.pages}
    kinds = {}
    for name, count in mixture.counts.items():
        made = sources[name] if name in sources else asked.KINDS[name](corpus)
        kinds[name] = _drawn(_plain(made), count, draw)
    pools: dict[str, list[TrainingRecord]] = {}
    for name, records in kinds.items():
        pools.setdefault(_POOLS.get(name, "native"), []).extend(records)
    counts: Counter[str] = Counter()
    mined = [record for records in pools.values() for record in mine_records(records, _MINING, counts)]
    write_jsonl(folder / "train.jsonl", (record.to_json() for record in mined))
    dev = mine_records(_plain(corpus.native("validation")), _MINING, counts)
    written = write_jsonl(folder / "dev.jsonl", (record.to_json() for record in dev))
    return {name: len(records) for name, records in kinds.items()} | {"train": len(mined), "dev": written, **counts}


def _plain(records: Iterable[TrainingRecord]) -> list[TrainingRecord]:
    return [TrainingRecord(record.query, record.positives, record.negatives, record.id) for record in records]


def _drawn(records: list[TrainingRecord], count: int | None, draw: random.Random) -> list[TrainingRecord]:
    if count is None or count >= len(records):
        return records
    return draw.sample(records, count)
