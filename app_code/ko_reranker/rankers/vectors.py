"""Vectors of documents that came lately, so that a corpus that is reranked again and again is encoded once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ko_reranker.engine import Item

# What an entry costs beside its vectors, in bytes: digest, array and place in the table.
_OVERHEAD = 256


class VectorCache:
    """Vectors under digests of the tokens that they are of: neither texts nor tokens are kept. Shared by all threads.

    Args:
        size: bytes that are kept at most; what was used longest ago goes first. 0 keeps nothing.
        model: tells the model from any other whose vectors might lie in the same cache.

    Attributes:
        hits, misses: sequences that were asked for, and were there or not, since the start.
        held: bytes that are kept now, with what an entry costs beside its vectors.
    """

    def __init__(self, size: int, model: str = "") -> None:
        self.size, self.hits, self.misses, self.held = size, 0, 0, 0
        self._model = model.encode()
        self._entries: dict[bytes, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, items: Sequence[Item]) -> list[np.ndarray | None]:
        """Return the vectors of each sequence, float16, (vectors, channels); None where they are not known."""
        if not self.size:
            return [None] * len(items)
        keys = [self._key(item) for item in items]
        with self._lock:
            found = [self._entries.get(key) for key in keys]
            for key, vectors in zip(keys, found, strict=True):
                if vectors is not None:  # back in at the end: a dict remembers the order that keys came in
                    self._entries[key] = self._entries.pop(key)
            known = sum(vectors is not None for vectors in found)
            self.hits, self.misses = self.hits + known, self.misses + len(found) - known
        return found

    def put(self, items: Sequence[Item], vectors: Sequence[np.ndarray]) -> None:
        """Keep the vectors of sequences, float16, and let go of what was used longest ago."""
        if not self.size:
            return
        with self._lock:
            for item, rows in zip(items, vectors, strict=True):
                key = self._key(item)
                if key not in self._entries:
                    self._entries[key] = rows
                    self.held += rows.nbytes + _OVERHEAD
            while self.held > self.size:
                oldest = next(iter(self._entries))
                self.held -= self._entries.pop(oldest).nbytes + _OVERHEAD

    def _key(self, item: Item) -> bytes:
        return hashlib.blake2b(item.ids.tobytes(), digest_size=16, key=self._model[:64]).digest()
