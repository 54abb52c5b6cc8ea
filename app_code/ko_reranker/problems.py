"""What pydantic finds wrong with values, as sentences name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class Problem:
    """One value that does not do.

    Attributes:
        kind: pydantic's name for what is wrong, such as ``missing``.
        path: where it stands, such as ``("training", "max_hours")``; empty for the whole.
        value: what stands there.
        reason: what is wrong with it.
    """

    kind: str
    path: tuple[int | str, ...]
    value: Any
    reason: str

    @property
    def at(self) -> str:
        """Where it stands, in one word."""
        return ".".join(map(str, self.path))

    @property
    def is_unknown(self) -> bool:
        """Whether nothing of this name is known."""
        return self.kind in ("extra_forbidden", "unexpected_keyword_argument")

    def __str__(self) -> str:
        return f"{self.at} = {self.value!r}: {self.reason}" if self.path else self.reason


def problems_of(error: ValidationError) -> list[Problem]:
    """Return all that is wrong, in the order of the fields; there is at least one."""
    return [
        Problem(item["type"], item["loc"], item["input"], item["msg"].removeprefix("Value error, ")) for item in error.errors()
    ]
