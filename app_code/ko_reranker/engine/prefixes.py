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


class Prefix:
    """The tokens that some sequences begin with. Its keys and values live as long as the sequences do.

    Args:
        ids: int32, (tokens,).
    """

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._lock = threading.Lock()
        self._states: Sequence[LayerStates] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def states(self, compute: Callable[[np.ndarray], Sequence[LayerStates]]) -> Sequence[LayerStates]:
        """Return keys and values of each layer; the first one who asks computes them, and others wait for that.

        Args:
            compute: from ids to keys and values of each layer.
        """
        with self._lock:
            if self._states is None:
                self._states = compute(self.ids)
            return self._states
