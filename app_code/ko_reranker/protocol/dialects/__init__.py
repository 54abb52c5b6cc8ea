"""One module per wire shape, and the table of them.

A dialect is three functions and two names in a module of its own; adding one is adding a line to ``DIALECTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..canonical import RerankRequest, RerankResult
from . import bedrock, cohere, logits, mixedbread, nim, pairs, parallel, score, tei

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire shape.

    Attributes:
        name: what ``RerankRequest.dialect`` holds.
        lists: the fields with an item for each document.
        matches: whether a body (nulls dropped) is of this shape.
        parse: body and path to the canonical request; raises ProtocolError only.
        render: canonical request and result to the answer's JSON value.
    """

    name: str
    lists: tuple[str, ...]
    matches: Callable[[Body], bool]
    parse: Callable[[Body, str], RerankRequest]
    render: Callable[[RerankRequest, RerankResult], Any]


def _dialect(module: ModuleType) -> Dialect:
    return Dialect(module.NAME, module.LISTS, module.matches, module.parse, module.render)


# The first that matches a body parses it.
DIALECTS = tuple(_dialect(module) for module in (score, cohere, tei, nim, mixedbread, bedrock, parallel, pairs))
# Spoken at the container's own path only, before all others.
LOGITS = _dialect(logits)
BY_NAME = {dialect.name: dialect for dialect in (LOGITS, *DIALECTS)}
