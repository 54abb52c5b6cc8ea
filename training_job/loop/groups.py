"""Groups: one query, one positive and its negatives, as token ids; which of them a step sees; and the loss over them."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ko_reranker.data.records import TrainingRecord
from ko_reranker.engine import Item
from ko_reranker.text import normalise
from training_job.loop.dataset import RecordFile

T = TypeVar("T")
# Two logits that differ by less, as a share of their size, differ by rounding alone.
_TIED = 1e-5
# Scores that differ by less are not blown up to 0..1.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Group:
    """One query and its passages, the positive first, as a family of rankers reads them.

    Attributes:
        record: the record's index in its file.
        pairs: a sequence for each passage, at least one; a cross-encoder's hold the query, too.
        teacher: a teacher's score of each passage, or None.
        query_cut: whether the query was longer than there is room for, and was cut.
        query, passages: the texts.
        positives: all texts that the record knows to be right, the one in the group among them.
    """

    record: int
    pairs: tuple[Item, ...]
    teacher: tuple[float, ...] | None = None
    query_cut: bool = False
    query: str = ""
    passages: tuple[str, ...] = ()
    positives: frozenset[str] = frozenset()

    @property
    def tokens(self) -> int:
        """Tokens to compute."""
        return sum(map(len, self.pairs))


# From a record's index, query, passages (the positive first), a teacher's scores and its own instruction to a group.
Encode = Callable[[int, str, Sequence[str], tuple[float, ...] | None, str | None], Group]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one worker computes of an optimiser step.

    Attributes:
        groups: this worker's.
        queries: how many groups all workers have together, which the loss is the mean of.
        shares: the groups of each worker, by rank, where the sampler makes them all; else none.
    """

    groups: list[Group]
    queries: int
    shares: Sequence[Sequence[Group]] = ()


class GroupSampler:
    """Says which groups an optimiser step sees, as a function of the step alone.

    So a resumed run continues at the exact place, and workers agree without asking each other.

    Args:
        records: the training records.
        encode: makes the groups.
        group_size: passages per query at most; a record with fewer negatives makes a smaller group.
        batch_queries: queries per step, over all workers; the last step of an epoch takes what is left.
        seed: of the order of the records and the choice of their passages.
        whole: make the other workers' groups, too: where queries are compared with their passages, knowing these spares asking.
    """

    def __init__(
        self,
        records: RecordFile,
        encode: Encode,
        *,
        group_size: int,
        batch_queries: int,
        seed: int,
        whole: bool = False,
    ) -> None:
        self.records = records
        self.encode = encode
        self.group_size = group_size
        self.batch_queries = batch_queries
        self.seed = seed
        self.whole = whole
        self.steps_per_epoch = math.ceil(len(records) / batch_queries)
        check_instructions(records, encode)
        self._order: tuple[int, np.ndarray] | None = None  # the epoch, and its records in their order

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return a worker's share of a step (from 0)."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.records)))
        chosen = self._order[1][number * self.batch_queries : (number + 1) * self.batch_queries].tolist()
        ranks = range(world_size) if self.whole else [rank]
        shares = [
            [self._group(index, epoch) for index in share_of(chosen, self.records.size, one, world_size)] for one in ranks
        ]
        return Batch(shares[rank], len(chosen), shares) if self.whole else Batch(shares[0], len(chosen))

    def _group(self, index: int, epoch: int) -> Group:
        record = self.records[index]
        draw = random.Random(f"{self.seed} {epoch} {index}")  # noqa: S311  a seeded draw, no secret
        negatives: Sequence[int] = range(len(record.negatives))
        if len(negatives) > self.group_size - 1:
            negatives = draw.sample(negatives, self.group_size - 1)
        return make_group(self.encode, index, record, draw.randrange(len(record.positives)), negatives)


def make_group(encode: Encode, index: int, record: TrainingRecord, positive: int, negatives: Sequence[int]) -> Group:
    """Return the group of one positive and some negatives of a record, each named by its index there.

    Texts are normalised as those of requests are: the model is taught what it will be asked.
    """
    passages = [normalise(record.positives[positive]), *(normalise(record.negatives[negative]) for negative in negatives)]
    teacher = None
    if record.positive_scores is not None and record.negative_scores is not None:
        teacher = (record.positive_scores[positive], *(record.negative_scores[negative] for negative in negatives))
    query = normalise(record.query)
    instruction = None if record.instruction is None else normalise(record.instruction)
    group = encode(index, query, passages, teacher, instruction)
    return replace(
        group, query=query, passages=tuple(passages), positives=frozenset({passages[0], *map(normalise, record.positives)})
    )


def check_instructions(records: RecordFile, encode: Encode) -> None:
    """See, before there are steps, that the longest instruction leaves room for the texts of its record.

    Raises:
        JobError: it does not.
    """
    if records.longest_instruction is not None:
        make_group(encode, records.longest_instruction, records[records.longest_instruction], 0, [])


def share_of(items: Sequence[int], size: Callable[[int], int], rank: int, world_size: int) -> list[int]:
    """Deal items out, largest first and to and fro, and return a worker's: all get about as much."""
    ordered = sorted(items, key=lambda item: (-size(item), item))
    return [item for index, item in enumerate(ordered) if _dealt_to(index, world_size) == rank]


def _dealt_to(index: int, world_size: int) -> int:
    turn, seat = divmod(index, world_size)
    return world_size - 1 - seat if turn % 2 else seat


def micro_batches(groups: Sequence[Group], budget: int) -> list[list[Group]]:
    """Put whole groups together as long as their tokens stay within a budget; a group beyond it stays alone."""
    batches: list[list[Group]] = []
    room: list[int] = []
    for group in sorted(groups, key=lambda group: (-group.tokens, group.record)):
        for number, left in enumerate(room):
            if group.tokens <= left:
                batches[number].append(group)
                room[number] -= group.tokens
                break
        else:
            batches.append([group])
            room.append(budget - group.tokens)
    return batches


def read_ahead(make: Callable[[int], T], steps: range) -> Iterator[tuple[int, T]]:
    """Yield each step with what is made for it, the next one's being made meanwhile by a thread."""
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        coming = deque(thread.submit(make, step) for step in steps[:1])
        for step in steps:
            made = coming.popleft().result()
            if step + 1 in steps:
                coming.append(thread.submit(make, step + 1))
            yield step, made


def group_loss(
    logits: torch.Tensor,
    groups: Sequence[Group],
    *,
    distillation_weight: float = 0.0,
    temperature: float = 1.0,
    min_max: bool = False,
    others: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the sum of the groups' losses.

    A group's loss is the softmax cross-entropy of its first pair, among the group's and, where they are given, other passages.
    Where a teacher scored the group, a share of that gives way to the Kullback-Leibler divergence of the group's softmax from
    the teacher's, both at a temperature, times its square (which keeps the gradient's size). Groups may differ in size; a group
    of one without others has nothing to compare and adds nothing.

    A sum, so that adding up micro-batches and dividing once by the queries of the step gives the whole batch's mean, whatever
    the split.

    Args:
        logits: (pairs,), group after group.
        groups: what they are of.
        distillation_weight: the share of the divergence, 0 to 1.
        temperature: of both softmaxes in the divergence; higher listens more to how the teacher ranks the negatives.
        min_max: bring each group's logits and teacher's scores to 0..1 in the divergence, where their scales have nothing in
            common.
        others: (groups, any); logits of other groups' passages, which a teacher did not score; -inf counts for nothing.
    """
    sizes = torch.tensor([len(group.pairs) for group in groups])
    columns = torch.arange(int(sizes.max()))
    present = (columns < sizes[:, None]).to(logits.device)  # (groups, largest group)
    scores = logits.new_full(present.shape, -math.inf, dtype=torch.float32).masked_scatter(present, logits.float())
    candidates = scores if others is None else torch.cat([scores, others.float()], 1)
    losses = -candidates.log_softmax(1)[:, 0]  # (groups,)
    if distillation_weight and any(group.teacher for group in groups):
        listening = torch.tensor([group.teacher is not None for group in groups], device=logits.device)
        given = [score for group in groups for score in group.teacher or [0.0] * len(group.pairs)]
        wanted = torch.full_like(scores, -math.inf).masked_scatter(present, scores.new_tensor(given))
        compared = scores
        if min_max:
            compared, wanted = _min_max(scores, present), _min_max(wanted, present)
        log_wanted = (wanted / temperature).log_softmax(1).masked_fill(~present, 0)
        log_scores = (compared / temperature).log_softmax(1).masked_fill(~present, 0)
        divergence = (log_wanted.exp() * present * (log_wanted - log_scores)).sum(1) * temperature**2
        share = listening * distillation_weight
        losses = (1 - share) * losses + share * divergence
    return losses.sum()


def binary_loss(logits: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
    """Return the sum of the groups' binary cross-entropies: is each passage relevant, by itself?

    It pins the level of the scores, which a softmax does not see: 0 is where a passage is as likely the positive as a negative.
    Positive and negatives weigh alike, a half each, whatever the size of the group; a group of one adds nothing.

    Args:
        logits: (pairs,), group after group.
        groups: what they are of.
    """
    weights, signs = [], []
    for group in groups:
        negatives = len(group.pairs) - 1
        weights += [0.5 * bool(negatives), *[0.5 / negatives for _ in range(negatives)]]
        signs += [1.0, *[-1.0] * negatives]
    losses = F.softplus(-logits.new_tensor(signs, dtype=torch.float32) * logits.float())
    return (logits.new_tensor(weights, dtype=torch.float32) * losses).sum()


def _min_max(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Bring the scores of each row to 0..1; of equal ones all to 0."""
    known = scores.masked_fill(~present, 0)
    least = scores.masked_fill(~present, math.inf).amin(1, keepdim=True)
    most = scores.masked_fill(~present, -math.inf).amax(1, keepdim=True)
    return ((known - least) / (most - least).clamp_min(_LEAST_SPREAD)).masked_fill(~present, -math.inf)


def are_tied(logits: torch.Tensor, groups: Sequence[Group]) -> bool:
    """Tell whether in every group all passages score alike, up to rounding: such a model ranks nothing.

    Args:
        logits: (pairs,), group after group.
        groups: what they are of; those of one passage have nothing to tell apart.
    """
    spreads = [
        (scores.max() - scores.min()) / max(1.0, scores.abs().max())
        for scores in logits.float().cpu().split([len(group.pairs) for group in groups])
        if len(scores) > 1
    ]
    return bool(spreads) and float(max(spreads)) < _TIED
