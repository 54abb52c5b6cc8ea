"""Groups: one query, one positive and its negatives, as token ids; and the loss over them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ko_reranker.data.records import TrainingRecord
from ko_reranker.rankers.pairs import EncodedPair, PairEncoder


@dataclass(frozen=True, slots=True)
class Group:
    """The pairs of one query, the positive's first."""

    pairs: tuple[EncodedPair, ...]

    @property
    def width(self) -> int:
        """Tokens of the longest pair."""
        return max(map(len, self.pairs))


class GroupSampler:
    """Says which groups an optimiser step sees, as a function of the step alone.

    So a resumed run continues at the exact place, and every worker knows the whole batch without asking the others.

    Args:
        records: the training records.
        encoder: tokenises pairs.
        group_size: passages per query at most; a record with fewer negatives makes a smaller group.
        batch_queries: queries per step, over all workers; the last step of an epoch takes what is left.
        seed: of the order of the records and the choice of their passages.
    """

    def __init__(
        self, records: Sequence[TrainingRecord], encoder: PairEncoder, *, group_size: int, batch_queries: int, seed: int
    ) -> None:
        self.records = records
        self.encoder = encoder
        self.group_size = group_size
        self.batch_queries = batch_queries
        self.seed = seed
        self.steps_per_epoch = math.ceil(len(records) / batch_queries)

    def batch(self, step: int) -> list[Group]:
        """Return the groups of a step (from 0), widest first."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = list(range(len(self.records)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)  # noqa: S311  a seeded order, no secret
        chosen = order[place * self.batch_queries : (place + 1) * self.batch_queries]
        return sorted((self._group(index, epoch) for index in chosen), key=lambda group: -group.width)

    def _group(self, index: int, epoch: int) -> Group:
        record = self.records[index]
        draw = random.Random(f"{self.seed} {epoch} {index}")  # noqa: S311
        negatives = record.negatives
        if len(negatives) > self.group_size - 1:
            negatives = draw.sample(negatives, self.group_size - 1)
        pairs, _ = self.encoder.encode(record.query, [draw.choice(record.positives), *negatives])
        return Group(tuple(pairs))


def share_of(groups: Sequence[Group], rank: int, world: int) -> Sequence[Group]:
    """Return a worker's share of a batch; of a batch sorted by width, everybody gets about as many tokens."""
    return groups[rank::world]


def micro_batches(groups: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    """Yield the groups, at most ``size`` at a time."""
    for start in range(0, len(groups), size):
        yield groups[start : start + size]


def group_loss(logits: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Return the sum over groups of the softmax cross-entropy of each group's first pair.

    Groups may differ in size; a group of one has nothing to compare and adds nothing. A sum, so that adding up
    micro-batches and dividing once by the queries of the step gives the whole batch's mean, whatever the split.

    Args:
        logits: (pairs,), group after group.
        sizes: pairs of each group.
    """
    counts = torch.tensor(sizes, device=logits.device)
    rows = torch.repeat_interleave(torch.arange(len(sizes), device=logits.device), counts)  # (pairs,)
    columns = torch.arange(len(logits), device=logits.device) - (counts.cumsum(0) - counts)[rows]
    padded = logits.new_full((len(sizes), max(sizes)), -math.inf, dtype=torch.float32)
    padded = padded.index_put((rows, columns), logits.float())  # (groups, largest group); missing passages weigh nothing
    return F.cross_entropy(padded, torch.zeros(len(sizes), dtype=torch.long, device=logits.device), reduction="sum")
