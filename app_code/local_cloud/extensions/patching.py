"""How an extension replaces a name of MiniStack: only names that it declares, and only in the version they were read in."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import version
from types import ModuleType
from typing import Any

MINISTACK_VERSION = "1.5.33"

Name = tuple[str, str]  # (module, attribute)


class MiniStackMismatch(RuntimeError):
    """The installed MiniStack is not the one that the extensions were written against."""


def verify(names: Iterable[Name]) -> None:
    """Refuse to patch a MiniStack that differs from the pinned one.

    Raises:
        MiniStackMismatch: naming the version found, or every name that is gone.
    """
    found = version("ministack")
    if found != MINISTACK_VERSION:
        raise MiniStackMismatch(
            f"The local cloud extends MiniStack {MINISTACK_VERSION}, and {found} is installed. "
            f"Install the pinned one: pip install ministack=={MINISTACK_VERSION}"
        )
    gone = [f"{module}.{name}" for module, name in names if not hasattr(importlib.import_module(module), name)]
    if gone:
        raise MiniStackMismatch(
            f"MiniStack {found} lacks {', '.join(gone)}, which the local cloud replaces. "
            "The installation is damaged or modified: reinstall ministack."
        )


class Patcher:
    """Replaces the declared names of MiniStack, each by a function made from the original."""

    def __init__(self, declared: Iterable[Name]) -> None:
        self._declared = frozenset(declared)
        self.done: set[Name] = set()

    def replace(self, module: ModuleType, name: str, make: Callable[[Any], Any]) -> None:
        """Set ``module.name`` to ``make(original)``."""
        key = (module.__name__, name)
        if key not in self._declared:
            raise KeyError(f"{key} is patched but not declared in PATCHED")
        setattr(module, name, make(getattr(module, name)))
        self.done.add(key)
