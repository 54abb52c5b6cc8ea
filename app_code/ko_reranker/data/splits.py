"""The train/dev split: a function of the queries alone, so that it stays put from run to run.

Records that share a query or a positive belong to one group, directly or through others, and a group is never divided: what is
asked or answered in dev was never trained on. A group goes where one of its queries goes, the one with the smallest hash; so a
record changes sides only when new data ties it to a group on the other side. (Groups of one, the usual case, never do.)
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from typing import Literal

from ko_reranker.text import identity

Split = Literal["train", "dev"]


def split_of(query: str, dev_fraction: float) -> Split:
    """Return the split a query belongs to.

    Args:
        query: the query in the dataset's own language (before translation), so that a better translation moves nothing.
        dev_fraction: the share of queries held out, 0 to 1.
    """
    return "dev" if draw_of(query) < dev_fraction * 2**64 else "train"


def draw_of(text: str) -> int:
    """Return the 64 bits that decide on which side a text's `identity` falls: evenly spread, and the same everywhere."""
    return int.from_bytes(hashlib.sha256(identity(text).encode("utf-8", "replace")).digest()[:8])


def fingerprint(*texts: str) -> int:
    """Return 64 bits that stand for some texts, each by its `identity`."""
    joined = "\x1f".join(map(identity, texts))
    return int.from_bytes(hashlib.blake2b(joined.encode("utf-8", "replace"), digest_size=8).digest())


class Groups:
    """Records tied together by shared queries and positives; some 130 bytes for each distinct one of them.

    Args:
        dev_fraction: the share of queries held out, 0 to 1.
    """

    def __init__(self, dev_fraction: float) -> None:
        self.dev_fraction = dev_fraction
        self._total = 0
        self._nodes: dict[int, int] = {}
        self._parents = array("I")
        # Of each root: the smallest hash of a query with that query's split in its last bit, and the records below.
        self._choices = array("Q")
        self._records = array("I")

    def add(self, source_query: str, query: str, positives: tuple[str, ...]) -> int:
        """Add a record and return a handle for `split`.

        Args:
            source_query: the query in the dataset's own language, which decides.
            query: the query that is trained on.
            positives: the positives that are trained on.
        """
        root = self._root(self._node(fingerprint("query", query)))
        if source_query != query:
            # Two spellings of a query may be translated in two ways, and are one query still.
            root = self._union(root, self._root(self._node(fingerprint("source", source_query))))
        for positive in positives:
            root = self._union(root, self._root(self._node(fingerprint("positive", positive))))
        in_dev = split_of(source_query, self.dev_fraction) == "dev"
        choice = fingerprint("group", source_query) & ~1 | in_dev
        self._choices[root] = min(self._choices[root], choice)
        self._records[root] += 1
        self._total += 1
        return root

    def split(self, handle: int) -> Split:
        """Return the split of a record's group, once all records are added.

        A group larger than half of what dev is to hold would be most of it: such a group is trained on.
        """
        root = self._root(handle)
        if self._records[root] > max(1.0, self.dev_fraction * self._total / 2):
            return "train"
        return "dev" if self._choices[root] & 1 else "train"

    def sizes(self) -> Counter[int]:
        """Return how many groups there are of each number of records."""
        return Counter(count for node, count in enumerate(self._records) if count and self._parents[node] == node)

    def _node(self, key: int) -> int:
        node = self._nodes.setdefault(key, len(self._parents))
        if node == len(self._parents):
            self._parents.append(node)
            self._choices.append(2**64 - 1)
            self._records.append(0)
        return node

    def _root(self, node: int) -> int:
        parents = self._parents
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    def _union(self, one: int, other: int) -> int:
        if one == other:
            return one
        # The older node stays the root: deterministic, and shallow enough with the paths halved on every walk.
        root, child = min(one, other), max(one, other)
        self._parents[child] = root
        self._choices[root] = min(self._choices[root], self._choices[child])
        self._records[root] += self._records[child]
        self._records[child] = 0
        return root
