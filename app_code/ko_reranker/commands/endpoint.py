"""`ko-reranker endpoint`: take the endpoint away while nobody needs it, and bring it back."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import console
from ko_reranker.commands.pipeline import StageOption, follow_execution
from ko_reranker.operations import endpoint, executions
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

app = typer.Typer(
    no_args_is_help=True,
    help="The endpoint: off takes it away, and with it what it costs; on brings it back with the live model.",
)
_Follow = Annotated[bool, typer.Option(help="Show what happens until it ends; without, only start it.")]


@app.command()
def off(
    stage: StageOption = "local",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask, as is done in stage prod.")] = False,
    follow: _Follow = True,
) -> None:
    """Take the endpoint away: callers get 429 with Retry-After until it is back.

    The live model, its data and its settings stay. A release that is under way ends first.
    """
    target = Stage.connect(stage, Project.find())
    if stage == "prod" and not yes:
        typer.confirm("Callers of prod get 429 until the endpoint is back. Take it away?", abort=True)
    execution = endpoint.switch(target, "off")
    if follow:
        follow_execution(target, execution, "endpoint's going")


@app.command()
def on(stage: StageOption = "local", follow: _Follow = True) -> None:
    """Bring the endpoint back with the live model, its autoscaling and its alarm; one that is there stays.

    It takes minutes: instances start, the model is loaded and asked golden queries. Where the region has no such instances
    just now it fails and says so; the same command tries again.
    """
    target = Stage.connect(stage, Project.find())
    execution = endpoint.switch(target, "on")
    if follow:
        follow_execution(target, execution, "endpoint's return")


@app.command()
def status(stage: StageOption = "local") -> None:
    """Show whether the endpoint is there, with which model, and what takes it away and brings it back."""
    project = Project.find()
    target, settings = Stage.connect(stage, project), project.settings(stage)
    live, hours, serving = target.live_model(), settings.schedule.endpoint, settings.serving
    console.print(escape(f"Endpoint    {endpoint.look(target)}"))
    console.print(f"Live model  {live[0] + '  ' + live[1] if live else 'none yet'}")
    clock = f"off {hours.off}, on {hours.on}, {settings.schedule.time_zone}" if hours else "never (schedule.endpoint)"
    console.print(f"By clock    {clock}")
    wakes = f"comes back, begun once in {serving.wake_seconds} s" if serving.wake_on_request else "stays away"
    console.print(f"At request  {wakes} (serving.wake_on_request)")
    for item in executions.latest(target, "DeployStateMachine", 5):
        if item["status"] == "RUNNING":
            console.print(f"Under way   {item['name']}")
