"""What a dialect is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..schemas import Schema

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A body that shows a dialect.

    Attributes:
        name: a word for programs, the only one of its kind among all dialects.
        summary: whose bodies look like this.
        body: its JSON value.
    """

    name: str
    summary: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire shape: how it is told from the others, read, answered and described.

    Attributes:
        name: what ``RerankRequest.dialect`` holds.
        tells: the fields that tell it. A body with one of them is of no dialect further down in the table.
        lists: the fields with an item for each document; a dot leads into an object.
        parse: body (nulls dropped) and path to the canonical request; raises ProtocolError only.
        render: canonical request and result to the answer's JSON value.
        matches: whether a body (nulls dropped) is of this shape; by default one that has a field of ``tells``.
        clients: who speaks it, for docs/api.md.
        fields: what a body has, for docs/api.md.
        answered: what it is answered with, for docs/api.md.
        examples: at least one for a dialect of the public API.
        schemas: the most documents of a request to schemas by name: the body's first, then those that only it refers to.
        answers: the schemas of the answers.
    """

    name: str
    tells: tuple[str, ...]
    lists: tuple[str, ...]
    parse: Callable[[Body, str], RerankRequest]
    render: Callable[[RerankRequest, RerankResult], Any]
    matches: Callable[[Body], bool] | None = None
    clients: str = ""
    fields: str = ""
    answered: str = ""
    examples: Sequence[Example] = ()
    schemas: Callable[[int], dict[str, Schema]] = field(default=lambda max_documents: {})
    answers: Callable[[], Sequence[Schema]] = field(default=tuple)

    def takes(self, body: Body) -> bool:
        """Return whether a body (nulls dropped) is of this shape."""
        return self.matches(body) if self.matches else any(name in body for name in self.tells)
