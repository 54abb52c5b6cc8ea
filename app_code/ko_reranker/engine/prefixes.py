"""What several sequences begin with, computed once: a token's key and value depend on nothing that comes behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The keys and the values of a prefix in one layer, (tokens, heads, head size) each.
LayerStates = tuple["torch.Tensor", "torch.Tensor"]


# From ids, and from what comes before them, to the keys and values of all of these in each layer.
Compute = Callable[[np.ndarray, Sequence[LayerStates] | None], Sequence[LayerStates]]


class Prefix:
    """The tokens that some sequences begin with. Its keys and values live as long as the sequences do.

    Args:
        ids: int32, (tokens,).
        behind: a prefix that comes before them; it is let go of once this one is computed.
    """

    def __init__(self, ids: np.ndarray, behind: Prefix | None = None) -> None:
        self.ids = ids
        self._length = len(ids) + (0 if behind is None else len(behind))
        self._behind = behind
        self._lock = threading.Lock()
        self._states: Sequence[LayerStates] | None = None

    def __len__(self) -> int:
        """How many tokens there are, those before its own included."""
        return self._length

    def states(self, compute: Compute) -> Sequence[LayerStates]:
        """Return keys and values of all tokens in each layer; who asks first computes them, and others wait for that."""
        with self._lock:
            if self._states is None:
                self._states = compute(self.ids, None if self._behind is None else self._behind.states(compute))
                self._behind = None
            return self._states
