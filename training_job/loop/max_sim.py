"""MaxSim, with its gradient: how near, on the whole, the nearest of a passage's vectors is to each of a query's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Nothing is farther from a query's vector: the match of a passage that has none.
_FARTHEST = -1.0


class Passages:
    """Vectors of passages, side by side.

    Args:
        rows: float32, (vectors, dim), each of length 1, passage after passage.
        counts: how many of them each passage has, 0 or more.

    Attributes:
        rows: as given.
        absent: bool, (passages,); which passages have none.
    """

    def __init__(self, rows: torch.Tensor, counts: Sequence[int]) -> None:
        self.rows = rows if len(rows) else rows.new_zeros(1, rows.shape[1])
        lengths = torch.tensor(counts, device=rows.device)
        self.absent = lengths == 0
        # The row of every passage's every vector, (passages, longest); the last one again, where others have more.
        within = torch.arange(max(counts), device=rows.device).minimum((lengths - 1).clamp_min(0)[:, None])
        self._indexes = ((lengths.cumsum(0) - lengths)[:, None] + within).clamp_max(len(self.rows) - 1)

    def nearest(self, query: torch.Tensor) -> torch.Tensor:
        """Return which row of each passage is nearest to each of a query's vectors: int64, (query's vectors, passages)."""
        if not self._indexes.shape[1]:  # no passage has a vector
            return self._indexes.new_zeros(len(query), len(self.absent))
        # In fp32 whatever the model computes in: in bf16 many would tie, and differ by steps of 0.004.
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            cosines = query @ self.rows.T
            best = cosines[:, self._indexes].argmax(2)
        return self._indexes[torch.arange(len(self._indexes), device=best.device), best]

    def take(self, nearest: torch.Tensor) -> torch.Tensor:
        """Return the rows that `nearest` named, (query's vectors, passages, dim)."""
        return self.rows.index_select(0, nearest.flatten()).view(*nearest.shape, -1)


def max_sims(query: torch.Tensor, taken: torch.Tensor, absent: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """Return each passage's MaxSim, (passages,): the sum or mean of the cosines of a query's vectors and their nearest.

    Args:
        query: float32, (vectors, dim), each of length 1.
        taken: float32, (vectors, passages, dim); the nearest of each passage.
        absent: bool, (passages,); passages without vectors, whose every cosine is -1.
        mean: of the query's vectors, instead of the sum.
    """
    cosines = (query[:, None] * taken).sum(-1).masked_fill(absent, _FARTHEST)  # (vectors, passages)
    return cosines.mean(0) if mean else cosines.sum(0)
