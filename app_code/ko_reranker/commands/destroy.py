"""`ko-reranker destroy`: take a stage away, and say what stays and what it costs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from ko_reranker.commands.console import console, step
from ko_reranker.operations import destroying
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage


def destroy(
    stage: Annotated[str, typer.Option("--stage", help="local, dev or prod. There is no default: name what is to go.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    unprotect: Annotated[
        bool, typer.Option("--unprotect", help="Take termination protection off first; prod's stacks have it.")
    ] = False,
) -> None:
    """Take a stage away: stop what runs, delete its stacks in order, and say what stays and what it goes on costing."""
    target = Stage.connect(stage, Project.find())
    plan = destroying.plan(target)
    _show(plan)
    if plan.protected and not unprotect:
        raise OperationError(
            f"{', '.join(plan.protected)} are protected from deletion: give --unprotect to delete them all the same"
        )
    if not yes:
        _confirm(target.prefix)
    destroying.destroy(plan, unprotect=unprotect, step=step)
    _show_rest(plan)


def _show(plan: destroying.Plan) -> None:
    if not plan.stacks:
        console.print(f"No stack of {plan.stage.prefix} is there; what releases made is looked for all the same.")
        return
    console.print(f"Goes, in this order: {', '.join(stack.name for stack in plan.stacks)}")
    if plan.buckets:
        console.print(f"with every object, all versions, of {', '.join(plan.buckets)}, and every model in the registry")
    if any(stack.key == "serving" for stack in plan.stacks):
        console.print("Callers of the API get no answer from then on; running retrainings and releases are stopped.")
    if plan.kept:
        console.print("Stays, and goes on costing:")
        for item in plan.kept:
            console.print(f"  {item.kind.removeprefix('AWS::')}  {escape(item.name)}: {item.cost}")


def _confirm(prefix: str) -> None:
    if not sys.stdin.isatty():
        raise OperationError("nobody is there to ask: give --yes")
    if typer.prompt(f"Type {prefix} to take it away") != prefix:
        raise OperationError("not confirmed: nothing was changed")


def _show_rest(plan: destroying.Plan) -> None:
    kept = {item.name for item in plan.kept}
    others = [line for line in destroying.left_over(plan.stage) if line.split(" ")[-1] not in kept]
    console.print(f"[green]✓[/] {plan.stage.prefix} is gone.")
    for line in others:
        console.print(f"  Still there: {escape(line)}")
    if plan.keeps_data:
        console.print(
            "What stays has the names that a new deploy of this stage wants: delete it by hand, or import it with `cdk import`."
        )
    if plan.stage.name != "local":
        console.print(
            "A key that goes is deleted by AWS after 30 days, and costs nothing until then. CDKToolkit, the bootstrap stack of "
            "all CDK apps in the account, stays with the assets of past deploys: cents a month (`npx cdk gc` deletes the "
            "unused). SageMaker keeps the records of jobs, and /aws/sagemaker/TrainingJobs and ProcessingJobs their logs."
        )
