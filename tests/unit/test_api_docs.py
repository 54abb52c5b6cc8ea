"""docs/api.md lists the routes and dialects that there are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_lists_are_those_of_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("lists", DOCS / "lists.py")
    lists = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lists)
    document = (DOCS / "api.md").read_text(encoding="utf-8")
    assert document == lists.written(document), "write them anew: make docs"
