"""What the engine computes: sequences of token ids. What is wanted of one, a logit or vectors, the model's head says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .prefixes import Prefix

# What a head gives of one sequence: a logit, or an array such as the logits of some labels or a vector for each token.
Result = float | np.ndarray
# Of several: one a sequence, as an array where they are logits.
Results = Sequence[Result] | np.ndarray


@dataclass(frozen=True, slots=True)
class Item:
    """One sequence.

    Attributes:
        ids: int32, (tokens,); special tokens included, those of the prefix not.
        second_at: where its tokens of type 1 begin, in a pair the document's; None for a model that knows no types.
        attended: how many of its tokens are seen by the others; those behind them see, and are not seen. None for all.
        prefix: what comes before them, shared with other sequences of a decoder; None for nothing.
        leads: whether the prefix's own tokens count as this sequence's work. They are computed once, and the longest of those
            that share them, which goes to the model first, stands in for them.
        targets: int32, (targets,); tokens whose likelihood is wanted, each behind those before it: the sequence ends with all
            of them but the last. None where a decoder is asked for what it says behind the last token.
    """

    ids: np.ndarray
    second_at: int | None = None
    attended: int | None = None
    prefix: Prefix | None = None
    leads: bool = False
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        """How many tokens are computed for it."""
        return len(self.ids) + (len(self.prefix.ids) if self.leads and self.prefix is not None else 0)

    @property
    def tokens(self) -> int:
        """How many tokens it has, those of its prefix included."""
        return len(self.ids) + (0 if self.prefix is None else len(self.prefix))

    @property
    def read(self) -> int:
        """How many of its last tokens' states a decoder's head reads."""
        return 1 if self.targets is None else len(self.targets)

    @property
    def features(self) -> dict[str, list[int]]:
        """What a model of `transformers` takes, for example ``{"input_ids": [0, 5, 2]}``."""
        features = {"input_ids": self.ids.tolist()}
        if self.second_at is not None:
            features["token_type_ids"] = [0] * self.second_at + [1] * (len(self.ids) - self.second_at)
        return features
