"""Sequences of any lengths as one batch: laid end to end, so that nothing computed is padding, or padded to the longest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from .items import Item


@dataclass(frozen=True)
class PackedBatch:
    """Some sequences in one row.

    Attributes:
        ids: int32, (tokens,); the sequences' token ids, one sequence after the other.
        types: int32, (tokens,); 0 or 1, in a pair 0 in the query and 1 in the document; None for models that know no types.
        positions: int32, (tokens,); each token's index in the model's table of positions.
        boundaries: int32, (sequences + 1,); where each sequence starts, and where the last one ends.
        offsets: the boundaries, for the host.
        longest: no sequence has more tokens.
        attended: of each sequence, how many tokens are seen by the others; None where all are.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    boundaries: torch.Tensor
    offsets: tuple[int, ...]
    longest: int
    attended: tuple[int, ...] | None = None

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.ids)

    @cached_property
    def lengths(self) -> list[int]:
        """How many tokens each sequence has."""
        return [end - start for start, end in itertools.pairwise(self.offsets)]

    @cached_property
    def firsts(self) -> torch.Tensor:
        """Where each sequence starts: int64, (sequences,)."""
        # An empty sequence at the end starts behind the last token; whatever it reads, nobody asks for.
        return self.boundaries[:-1].clamp(max=self.tokens - 1).long()

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        if device == self.ids.device:
            return self
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            types=None if self.types is None else self.types.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            boundaries=self.boundaries.to(device, non_blocking=True),
        )

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
        return self._with_padding(offsets, longest)

    def rounded(self, count: Callable[[int], int]) -> PackedBatch:
        """Return the batch with sequences of padding behind its own, so that its numbers of tokens and of sequences are few.

        Args:
            count: from a number of tokens or sequences to one that is not smaller.
        """
        fillers = count(self.sequences + 1) - self.sequences
        padding = count(self.tokens + fillers) - self.tokens
        # None is empty: all have one token, and the last one the rest.
        lengths = [1] * (fillers - 1) + [padding - fillers + 1]
        offsets = tuple(itertools.accumulate(lengths, initial=self.tokens))
        filled = self._with_padding(self.offsets + offsets[1:], max(self.longest, lengths[-1]))
        return filled if self.attended is None else replace(filled, attended=(*self.attended, *lengths))

    def _with_padding(self, offsets: tuple[int, ...], longest: int) -> PackedBatch:
        """Return the batch with some tokens behind its own, up to the last offset."""
        # They repeat those of the batch: any position that exists will do.
        indexes = torch.arange(offsets[-1] - self.tokens) % self.tokens
        return PackedBatch(
            ids=torch.cat([self.ids, self.ids[indexes]]),
            types=None if self.types is None else torch.cat([self.types, self.types[indexes]]),
            positions=torch.cat([self.positions, self.positions[indexes]]),
            boundaries=torch.tensor(offsets, dtype=torch.int32),
            offsets=offsets,
            longest=longest,
        )


def pack(items: Sequence[Item], *, first_position: int = 0, padding_id: int | None = None) -> PackedBatch:
    """Lay sequences end to end.

    Args:
        items: at least one.
        first_position: that of a sequence's first token; RoBERTa and its kin start behind their padding's.
        padding_id: the token that takes no position of its own there; a text can spell it out. None for models that number
            every token.
    """
    lengths = np.array([len(item) for item in items])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([item.ids for item in items])
    positions = np.arange(first_position, first_position + len(ids)) - np.repeat(offsets[:-1], lengths)
    if padding_id is not None and (ids == padding_id).any():
        counted = [np.cumsum(item.ids != padding_id) - 1 + first_position for item in items]
        positions = np.where(ids == padding_id, padding_id, np.concatenate(counted))
    types = None
    if items[0].second_at is not None:
        starts = np.repeat(offsets[:-1] + [item.second_at for item in items], lengths)
        types = torch.from_numpy((np.arange(len(ids)) >= starts).astype(np.int32))
    seen = tuple(len(item) if item.attended is None else item.attended for item in items)
    return PackedBatch(
        ids=torch.from_numpy(ids),
        types=types,
        positions=torch.from_numpy(positions.astype(np.int32)),
        boundaries=torch.from_numpy(offsets.astype(np.int32)),
        offsets=tuple(offsets.tolist()),
        longest=int(lengths.max()),
        attended=None if seen == tuple(lengths.tolist()) else seen,
    )


def pad(items: Sequence[Item], padding_id: int) -> dict[str, torch.Tensor]:
    """Return what a model of `transformers` takes: int64 tensors (items, tokens), attention mask included.

    Padded at the ends and by the model's own id, whatever its tokenizer is set to: positions are counted from the first token.

    Args:
        items: at least one; the longest sets the width.
        padding_id: what to pad with.
    """
    shape = (len(items), max(map(len, items)))
    batch = {"input_ids": torch.full(shape, padding_id), "attention_mask": torch.zeros(shape, dtype=torch.int64)}
    if items[0].second_at is not None:
        batch["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    for row, item in enumerate(items):
        batch["input_ids"][row, : len(item)] = torch.from_numpy(item.ids)
        batch["attention_mask"][row, : len(item)] = 1
        if item.second_at is not None:
            batch["token_type_ids"][row, item.second_at : len(item)] = 1
    return batch
