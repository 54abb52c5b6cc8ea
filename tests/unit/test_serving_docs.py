"""docs/serving.md names every flag and every metric, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from ko_reranker.cli import app
from ko_reranker.serving import Metrics

DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def table(heading: str) -> str:
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("| `"))


def test_the_table_of_flags_is_the_commands() -> None:
    command = typer.main.get_command(app).commands["serve"]
    flags = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", table("Flags"))) == flags


def test_the_table_of_metrics_is_the_registrys() -> None:
    kinds = {"counter": "_total", "info": "_info"}
    families = [family for family in Metrics().registry.collect() if family.name.startswith("ko_reranker_")]
    names = {family.name.removesuffix("_total") + kinds.get(family.type, "") for family in families}
    assert set(re.findall(r"ko_reranker_[a-z_]+", table("Metrics"))) == names
