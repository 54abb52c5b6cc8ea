"""`ko-reranker doctor`: find out what would go wrong before a deploy does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import console
from ko_reranker.commands.pipeline import StageOption
from ko_reranker.operations import stage_rules, synthesis
from ko_reranker.operations.checks import check
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def doctor(
    stage: StageOption = "prod",
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Without an account: synthesise the stage's templates, endpoint included, and check them against what AWS "
            "documents. Exit status 1 when a rule is broken.",
        ),
    ] = False,
    templates: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="With --offline: check the templates of this folder, such as cdk.out, instead."
        ),
    ] = None,
) -> None:
    """Check credentials, region, bootstrap, quotas, concurrency, state machines, image and model before anyone deploys."""
    project = Project.find()
    if templates and not offline:
        raise OperationError("--templates goes with --offline: without it the doctor asks the account")
    if offline:
        raise typer.Exit(_offline(stage, project, templates))
    worst = "ok"
    for finding in check(stage, project):
        console.print(f"{_MARKS[finding.level]} {finding.subject}: {escape(finding.message)}")
        worst = max(worst, finding.level, key=list(_MARKS).index)
    raise typer.Exit(1 if worst == "error" else 0)


def _offline(stage: str, project: Project, folder: Path | None) -> int:
    if folder:
        found = synthesis.read(folder, project.settings(stage).prefix)
    else:
        # With the endpoint, which the first deploy leaves out: it is what most rules are about.
        found = synthesis.synthesise(project, stage, {"serving.enabled": "true"})
    broken = 0
    for rule in stage_rules.RULES:
        wrong = list(rule(found))
        console.print(f"{_MARKS['error' if wrong else 'ok']} {rule.__name__.replace('_', ' ')}")
        for breach in wrong:
            console.print(f"    {escape(breach.where)}: {escape(breach.message)} [dim]({breach.source})[/]")
        broken += bool(wrong)
    console.print(f"{', '.join(found)}: {broken or 'none'} of {len(stage_rules.RULES)} rules broken. Templates can't show:")
    for sentence in stage_rules.UNKNOWN:
        console.print(f"  {escape(sentence)}")
    return 1 if broken else 0
