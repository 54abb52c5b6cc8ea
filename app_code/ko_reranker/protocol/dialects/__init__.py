"""One module per wire shape, and the table of them: adding a dialect is a line in ``DIALECTS``."""

from __future__ import annotations

from . import bedrock, cohere, dashscope, logits, mixedbread, nim, pairs, parallel, score, tei
from .dialect import Dialect, Example

__all__ = ["BY_NAME", "DIALECTS", "LOGITS", "Dialect", "Example"]

# The first that takes a body parses it.
DIALECTS = (
    score.DIALECT,
    cohere.DIALECT,
    tei.DIALECT,
    nim.DIALECT,
    dashscope.DIALECT,
    mixedbread.DIALECT,
    bedrock.DIALECT,
    parallel.DIALECT,
    pairs.DIALECT,
)
# Spoken at the container's own path only, before all others.
LOGITS = logits.DIALECT
BY_NAME = {dialect.name: dialect for dialect in (LOGITS, *DIALECTS)}
