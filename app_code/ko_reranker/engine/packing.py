"""Sequences of any lengths laid end to end, so that nothing computed is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        boundaries: int32, (sequences + 1,); where each sequence starts, and where the last one ends.
        offsets: the boundaries, for the host.
        longest: no sequence has more tokens.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    boundaries: torch.Tensor
    offsets: tuple[int, ...]
    longest: int

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.ids)

    @cached_property
    def firsts(self) -> torch.Tensor:
        """Where each sequence starts: int64, (sequences,)."""
        # An empty sequence at the end starts behind the last token; whatever it reads, nobody asks for.
        return self.boundaries[:-1].clamp(max=self.tokens - 1).long()

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        if device == self.ids.device:
            return self
        names = ("ids", "types", "positions", "boundaries")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{name: t if t is None else t.to(device, non_blocking=True) for name, t in tensors.items()})

    def filled(self, tokens: int, sequences: int, longest: int) -> PackedBatch:
        """Return the batch brought to a fixed size: behind its own come sequences of padding, then empty ones.

        Args:
            tokens: at least those of the batch.
            sequences: at least those of the batch and one for each ``longest`` missing tokens.
            longest: the length of a sequence of padding, and at least that of the batch's longest.
        """
        padding = tokens - self.tokens
        ends = [*range(self.tokens + longest, tokens, longest), *([tokens] if padding else [])]
        offsets = self.offsets + tuple(ends)
        offsets += (tokens,) * (sequences + 1 - len(offsets))
        # Positions repeat those of the batch: any that exist will do.
        places = torch.arange(padding) % self.tokens
        return PackedBatch(
            ids=torch.cat([self.ids, self.ids[places]]),
            types=None if self.types is None else torch.cat([self.types, self.types[places]]),
            positions=torch.cat([self.positions, self.positions[places]]),
            boundaries=torch.tensor(offsets, dtype=torch.int32),
            offsets=offsets,
            longest=longest,
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
        boundaries=torch.from_numpy(offsets.astype(np.int32)),
        offsets=tuple(offsets.tolist()),
        longest=int(lengths.max()),
    )
