"""A full disk, told as one: which disk, how much is free, how much is needed. Standard library only."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

# What libraries say that write files without Python.
_SAID = ("No space left on device", "StorageFull", "Disk quota exceeded")


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is a disk without room (or a quota that is used up)."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in _SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(path: Path) -> int:
    """Return how many bytes the disk of a path has free, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (path, *path.absolute().parents) if place.exists())).free


def no_room(path: Path, needed: int | None = None) -> str:
    """Return the clause that says so, such as "the disk of /tmp has 1.2 GB free, and 2.3 GB are needed"."""
    more = "" if needed is None else f", and {_size(needed)} are needed"
    return f"the disk of {path} has {_size(free_bytes(path))} free{more}"


def _size(count: int) -> str:
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6)):
        if count >= bytes_of:
            return f"{count / bytes_of:.1f} {unit}"
    return f"{count:,} bytes"
