"""Sequences of any lengths laid end to end, so that nothing computed is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ko_reranker.rankers.pairs import EncodedPair


@dataclass(frozen=True)
class PackedBatch:
    """Some sequences in one row.

    Attributes:
        ids: int32, (tokens,); the sequences' token ids, one sequence after the other.
        types: int32, (tokens,); 0 in the query and 1 in the document, for models that tell them apart; else None.
        positions: int32, (tokens,); each token's place in the model's table of positions.
        offsets: (sequences + 1,); where each sequence starts, and where the last one ends.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    offsets: tuple[int, ...]

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return self.offsets[-1]

    @cached_property
    def longest(self) -> int:
        """The length of the longest sequence."""
        return max(end - start for start, end in zip(self.offsets, self.offsets[1:], strict=False))

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """The offsets as a tensor: int32, (sequences + 1,), on the device of the tokens."""
        return torch.tensor(self.offsets, dtype=torch.int32).to(self.ids.device, non_blocking=True)

    @cached_property
    def firsts(self) -> torch.Tensor:
        """Where each sequence starts: int64, (sequences,), on the device of the tokens."""
        return self.boundaries[:-1].long()

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        types = None if self.types is None else self.types.to(device, non_blocking=True)
        return PackedBatch(
            self.ids.to(device, non_blocking=True), types, self.positions.to(device, non_blocking=True), self.offsets
        )


def pack(pairs: Sequence[EncodedPair], *, first_position: int = 0, padding_id: int | None = None) -> PackedBatch:
    """Lay encoded pairs end to end.

    Args:
        pairs: at least one.
        first_position: the place of a sequence's first token; RoBERTa and its kin start behind their padding's.
        padding_id: the token that takes no place of its own there; a text can spell it out. None for models that number
            every token.
    """
    lengths = np.array([len(pair) for pair in pairs])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([pair.ids for pair in pairs])
    positions = np.arange(first_position, first_position + len(ids)) - np.repeat(offsets[:-1], lengths)
    if padding_id is not None and (ids == padding_id).any():
        counted = [np.cumsum(pair.ids != padding_id) - 1 + first_position for pair in pairs]
        positions = np.where(ids == padding_id, padding_id, np.concatenate(counted))
    types = None
    if pairs[0].typed:
        starts = np.repeat(offsets[:-1] + [pair.document_at for pair in pairs], lengths)
        types = torch.from_numpy((np.arange(len(ids)) >= starts).astype(np.int32))
    return PackedBatch(
        ids=torch.from_numpy(ids),
        types=types,
        positions=torch.from_numpy(positions.astype(np.int32)),
        offsets=tuple(offsets.tolist()),
    )
