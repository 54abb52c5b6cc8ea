"""What happens to a text before a model reads it: normalising, unescaping, cutting into pieces. Pure Python."""

from .chunking import spans
from .normalising import normalise

__all__ = ["normalise", "spans"]
