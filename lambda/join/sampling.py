"""A uniform sample of a stream of unknown length."""

from __future__ import annotations

import random


class Reservoir:
    """A uniform sample of the items seen so far (Vitter's algorithm R), the same for the same stream.

    Args:
        size: the most items to keep.
        seed: of the draw.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.items: list[str] = []
        self._size = size
        self._seen = 0
        self._random = random.Random(seed)  # noqa: S311

    def add(self, item: str) -> None:
        self._seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (slot := self._random.randrange(self._seen)) < self._size:
            self.items[slot] = item
