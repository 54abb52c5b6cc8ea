"""``ko-reranker keys``: who may call a stage's rerank API."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ko_reranker.commands.console import console
from ko_reranker.commands.pipeline import StageOption
from ko_reranker.operations import api_keys
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

app = typer.Typer(no_args_is_help=True, help="Keys of the rerank API: create, list, disable.")
Name = Annotated[str, typer.Argument(help="Whom the key is for, such as search-team.")]


@app.command()
def create(
    name: Name,
    stage: StageOption = "local",
    tier: Annotated[str | None, typer.Option(help="Usage plan: one of api.tiers. Default: the first.")] = None,
) -> None:
    """Make a key and print it; it is shown this once."""
    console.print(api_keys.create(Stage.connect(stage, Project.find()), name, tier or _first_tier(stage)))


@app.command("list")
def list_keys(stage: StageOption = "local") -> None:
    """List the keys: name, tier, whether they work. Never the keys themselves."""
    table = Table(box=None, header_style="dim")
    for column in ("Name", "Tier", "State", "Id", "Created"):
        table.add_column(column)
    for key in api_keys.keys(Stage.connect(stage, Project.find())):
        table.add_row(key.name, key.tier or "none", "enabled" if key.enabled else "disabled", key.id, key.created)
    console.print(table)


@app.command()
def disable(name: Name, stage: StageOption = "local") -> None:
    """Switch a key off; whoever holds it gets 401 from now on."""
    api_keys.disable(Stage.connect(stage, Project.find()), name)
    console.print(f"Disabled: {name}")


def _first_tier(stage: str) -> str:
    return next(iter(Project.find().settings(stage).api.tiers))
