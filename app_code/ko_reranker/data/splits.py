"""The train/dev split: a function of the query alone, so that it stays put from run to run."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "dev"]


def split_of(query: str, dev_fraction: float) -> Split:
    """Return the split a query belongs to.

    Args:
        query: the query in the dataset's own language (before translation), so that a better translation moves nothing.
        dev_fraction: the share of queries held out, 0 to 1.
    """
    digest = hashlib.sha256(" ".join(query.split()).casefold().encode()).digest()
    return "dev" if int.from_bytes(digest[:8]) < dev_fraction * 2**64 else "train"
