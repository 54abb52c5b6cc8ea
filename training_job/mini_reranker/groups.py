"""The records that the cross-encoder is fine-tuned on, with negatives by the project's own miner, and in the second round by
the model of the first.

Native questions (`tydi`, `kobest`), headings of documentation against their section, and what `asked` makes of both's texts.
Records of one pool together are what the miner searches for wrong passages: one of another kind is too easy to tell.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import track

from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.rankers import Ranker
from training_job.mine import MiningSettings, mine_records
from training_job.mini_reranker import asked
from training_job.mini_reranker.corpus import Corpus

_MINING = MiningSettings(negatives=10, rank_from=1, rank_to=40, max_overlap=0.5)
# Of so many that BM25 found, the model of the round before chooses those it takes most for right; the rest stay as drawn.
_JUDGED, _CHOSEN = 14, 6
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

    counts: Mapping[str, int | None]
    seed: int = 0


FIRST_ROUND = Mixture(
    {
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
# More of what the first round left weak: numbers, faults of typing, long documents.
SECOND_ROUND = Mixture(
    {
        "tydi": None,
        "kobest": 700,
        "headings": 250,
        "told": 600,
        "stated": 300,
        "terms": 400,
        "typed": 800,
        "swapped": 700,
        "altered": 1200,
        "reports": 900,
        "mixed": 150,
    },
    seed=1,
)


def write_groups(corpus: Corpus, mixture: Mixture, folder: Path, ranker: Ranker | None = None) -> dict[str, int]:
    """Write train.jsonl and dev.jsonl with their negatives, and return the number of records of each kind.

    Args:
        corpus: the data.
        mixture: how many records of each kind there are.
        folder: where the files go.
        ranker: chooses negatives of those that BM25 found; None draws them.
    """
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
    mining = _MINING if ranker is None else replace(_MINING, negatives=_JUDGED)
    given = [record for records in pools.values() for record in records]
    mined = [record for records in pools.values() for record in mine_records(records, mining, counts)]
    if ranker is not None:
        chosen = zip(mined, given, strict=True)
        judged = track(chosen, "negatives by the model", len(mined))
        mined = [_hardest(record, own.negatives, ranker) for record, own in judged]
    write_jsonl(folder / "train.jsonl", (record.to_json() for record in mined))
    dev = mine_records(_plain(corpus.native("validation")), _MINING, counts)
    written = write_jsonl(folder / "dev.jsonl", (record.to_json() for record in dev))
    return {name: len(records) for name, records in kinds.items()} | {"train": len(mined), "dev": written, **counts}


def _hardest(record: TrainingRecord, own: Sequence[str], ranker: Ranker) -> TrainingRecord:
    """Return a record with as many negatives as `_MINING` says: its own, or those that score highest, and the rest as drawn."""
    found = record.negatives
    if not own:  # whoever brings some brings the hardest
        scores = dict(zip(found, map(float, ranker.score(record.query, found)), strict=True))
        best = sorted(found, key=scores.__getitem__, reverse=True)[:_CHOSEN]
        found = (*best, *(text for text in found if text not in best))
    return record.with_negatives(found[: _MINING.negatives])


def _plain(records: Iterable[TrainingRecord]) -> list[TrainingRecord]:
    return [TrainingRecord(record.query, record.positives, record.negatives, record.id) for record in records]


def _drawn(records: list[TrainingRecord], count: int | None, draw: random.Random) -> list[TrainingRecord]:
    if count is None or count >= len(records):
        return records
    return draw.sample(records, count)
