"""In-batch negatives: each query is compared with the passages of all queries of the step, whichever worker has them.

After GradCache (Gao and others, 2021, https://arxiv.org/abs/2101.06983), in three rounds:

1. each worker computes the vectors of its micro-batches, and keeps nothing else of them;
2. the passages' vectors are gathered, each worker compares its own queries with all of them, and what its losses' gradients are
   by these vectors is added up: two collectives, however many micro-batches each worker has;
3. the micro-batches are computed again, each with its graph, through which the gradient of its vectors goes back.

So memory is that of one micro-batch and of the step's vectors (own, gathered, their gradient), at the price of a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from training_job.loop.groups import Group
from training_job.loop.max_sim import Passages, max_sims
from training_job.loop.worker import Worker


class ReadsApart(Protocol):
    """A family that reads query and passages apart, and compares their vectors by MaxSim.

    Attributes:
        channels: of a vector.
        mean: MaxSim is the mean over the query's vectors, not the sum.
        temperature: what it is divided by.
    """

    channels: int
    mean: bool
    temperature: float

    def vectors(self, groups: Sequence[Group], step: int) -> list[list[torch.Tensor]]:
        """Return of each group the vectors of the query, then of each passage: float32, (vectors, channels)."""
        ...

    def counts(self, group: Group) -> list[int]:
        """Return how many vectors each passage of a group has, as is known without computing them."""
        ...

    def loss(self, logits: torch.Tensor, groups: Sequence[Group], others: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sum of the groups' losses; `others` are logits of other groups' passages, (groups, any)."""
        ...


def in_batch_losses(
    family: ReadsApart,
    parts: Sequence[Sequence[Group]],
    shares: Sequence[Sequence[Group]],
    step: int,
    worker: Worker,
    autocast: AbstractContextManager[Any],
) -> Iterator[torch.Tensor]:
    """Yield the sum of the losses of each micro-batch; take its gradient before the next one.

    Every worker has to begin, also one that has no micro-batch: the others wait for it.

    Args:
        family: computes the vectors.
        parts: this worker's micro-batches.
        shares: the groups of each worker, by rank; this one's hold those of the micro-batches.
        step: the optimiser step.
        worker: this one.
        autocast: what to compute vectors in; entered many times.
    """
    found: dict[int, list[torch.Tensor]] = {}
    drawn = []
    for part in parts:
        drawn.append(_generator(worker.device))
        with torch.no_grad(), autocast:
            vectors = family.vectors(part, step)
        found |= {group.record: own for group, own in zip(part, vectors, strict=True)}
    losses, gradients = _compared(family, found, shares, worker)
    del found
    for part, state in zip(parts, drawn, strict=True):
        if state is not None:  # what dropout drew, it draws again
            torch.cuda.set_rng_state(state, worker.device)
        with autocast:
            vectors = family.vectors(part, step)
        loss = torch.stack([losses[group.record] for group in part]).sum()
        gradient = torch.cat([rows for group in part for rows in gradients.pop(group.record)])
        yield _KnownLoss.apply(torch.cat([rows for own in vectors for rows in own]), loss, gradient)  # type: ignore[no-untyped-call]  # PyTorch's own


def _generator(device: torch.device) -> torch.Tensor | None:
    # On a CPU dropout is a function of step, record and passage (packed.py).
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _compared(
    family: ReadsApart, found: Mapping[int, list[torch.Tensor]], shares: Sequence[Sequence[Group]], worker: Worker
) -> tuple[dict[int, torch.Tensor], dict[int, list[torch.Tensor]]]:
    """Return, by record, the losses of this worker's groups, and their gradients by the query's and each passage's vectors.

    The gradients are those of all workers' losses.
    """
    own = shares[worker.rank]
    everyone = [group for share in shares for group in share]
    counts = [count for group in everyone for count in family.counts(group)]
    by_worker = [sum(sum(family.counts(group)) for group in share) for share in shares]
    empty = torch.zeros(0, family.channels, device=worker.device)
    mine = torch.cat([empty, *(rows for group in own for rows in found[group.record][1:])])
    passages = Passages(worker.all_gather_rows(mine, by_worker), counts)
    arrived = torch.zeros_like(passages.rows)
    losses, by_query = {}, {}
    first = sum(len(group.pairs) for share in shares[: worker.rank] for group in share)
    for group, left_out in zip(own, _left_out(own, everyone), strict=True):
        query = found[group.record][0].requires_grad_()
        nearest = passages.nearest(query)
        taken = passages.take(nearest).requires_grad_()
        logits = max_sims(query, taken, passages.absent, mean=family.mean) / family.temperature
        others = logits.masked_fill(left_out.to(logits.device), -torch.inf)
        loss = family.loss(logits[first : first + len(group.pairs)], [group], others[None])
        by_query[group.record], by_taken = torch.autograd.grad(loss, (query, taken))
        arrived.index_add_(0, nearest.flatten(), by_taken.flatten(0, 1))
        losses[group.record] = loss.detach()
        first += len(group.pairs)
    worker.all_reduce_rows(arrived)
    place, gradients = sum(by_worker[: worker.rank]), {}
    for group in own:
        lengths = family.counts(group)
        gradients[group.record] = [by_query[group.record], *arrived[place : place + sum(lengths)].split(lengths)]
        place += sum(lengths)
    return losses, gradients


def _left_out(own: Sequence[Group], everyone: Sequence[Group]) -> Iterator[torch.Tensor]:
    """Yield for each own group which passages of the step are no others: its own, and what is known to be right."""
    right: dict[str, set[str]] = {}
    for group in everyone:  # a question may stand in several records
        right.setdefault(group.query, set()).update(group.positives)
    for group in own:
        known = right[group.query].union(group.passages)
        yield torch.tensor([passage in known for other in everyone for passage in other.passages])


class _KnownLoss(torch.autograd.Function):
    """A loss whose gradient by some vectors is known."""

    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, loss: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, arrived: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return arrived * gradient, None, None
