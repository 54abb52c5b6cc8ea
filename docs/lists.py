"""Writes the lists of docs/api.md that follow from the tables of the code: routes and dialects.

make docs
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ko_reranker.protocol.dialects import DIALECTS
from ko_reranker.protocol.routes import ROUTES, Route

DOCUMENT = Path(__file__).parent / "api.md"


def routes() -> Iterable[Sequence[str]]:
    """Yield the rows of the table of routes."""
    yield "route", "takes"
    posts, gets, container = [], [], []
    for route in ROUTES:
        (container if not route.public else posts if route.request else gets).append(route)
    yield _paths(posts), "any body of the next table"
    yield _paths(route for route in gets if not route.open), "nothing, but a key"
    yield _paths(route for route in gets if route.open), "nothing"
    by_method = [[route for route in container if bool(route.request) is sent] for sent in (False, True)]
    yield "; ".join(map(_paths, by_method)), "the server only, not the API on AWS"


def dialects() -> Iterable[Sequence[str]]:
    """Yield the rows of the table of dialects."""
    yield "body has", "dialect", "answer"
    for dialect in DIALECTS:
        yield dialect.fields, dialect.clients, dialect.answered


LISTS: dict[str, Callable[[], Iterable[Sequence[str]]]] = {"routes": routes, "dialects": dialects}


def written(document: str) -> str:
    """Return the document with each list anew, between the marks of its name."""
    for name, rows in LISTS.items():
        opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        pattern = re.compile(f"(?<={re.escape(opening)}).*?(?={re.escape(closing)})", re.DOTALL)
        document, count = pattern.subn(lambda match, rows=rows: _table(rows()), document)
        if count != 1:
            raise ValueError(f"{name} must stand in {DOCUMENT.name} once, between {opening.strip()} and {closing}")
    return document


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |\n" for row in rows)
    rule = "|---" * (head.count(" | ") + 1) + "|\n"
    return "".join((head, rule, *rest))


def _paths(routes: Iterable[Route]) -> str:
    found = list(routes)
    methods = "`GET`, `HEAD`" if found[0].method == "GET" else f"`{found[0].method}`"
    return f"{methods} {', '.join(f'`{route.path}`' for route in found)}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
