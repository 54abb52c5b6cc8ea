"""What happens to a text before a model reads it, and which texts are the same. Pure Python."""

from typing import Any

from .chunking import spans
from .identity import identity, is_blank

__all__ = ["identity", "is_blank", "normalise", "spans"]


def __getattr__(name: str) -> Any:
    # `normalise` reads YAML, which the Lambda functions that compare texts come without.
    if name == "normalise":
        from .normalising import normalise

        return normalise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
