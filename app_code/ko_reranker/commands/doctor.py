"""`ko-reranker doctor`: find out what would go wrong before a deploy does."""

from __future__ import annotations

import typer
from rich.markup import escape

from ko_reranker.commands.console import console
from ko_reranker.commands.pipeline import StageOption
from ko_reranker.operations.checks import check
from ko_reranker.operations.project import Project

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def doctor(stage: StageOption = "prod") -> None:
    """Check credentials, region, bootstrap, GPU quotas, image and model before anyone deploys."""
    worst = "ok"
    for finding in check(stage, Project.find()):
        console.print(f"{_MARKS[finding.level]} {finding.subject}: {escape(finding.message)}")
        worst = max(worst, finding.level, key=list(_MARKS).index)
    raise typer.Exit(1 if worst == "error" else 0)
