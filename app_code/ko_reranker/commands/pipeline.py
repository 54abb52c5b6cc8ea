"""The commands for a deployed stage, local or on AWS: retrain, status, rerank, models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ko_reranker import languages
from ko_reranker.commands.console import ExecutionView, console
from ko_reranker.operations import asking, endpoint, executions, packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

StageOption = Annotated[
    str, typer.Option("--stage", help="local, dev or prod: the same commands for your machine and for AWS.")
]

models = typer.Typer(no_args_is_help=True, help="The model registry: register, list, approve, rollback.")


def retrain(
    stage: StageOption = "local",
    input_json: Annotated[
        str, typer.Option("--input", help='The execution input as JSON, such as \'{"dataset": "faq", "dry_run": true}\'.')
    ] = "{}",
    name: Annotated[str | None, typer.Option(help="The execution's name; a run and its files are named after it.")] = None,
    follow: Annotated[bool, typer.Option(help="Show what happens until it ends; without, only start it.")] = True,
) -> None:
    """Start the retraining state machine and follow it."""
    try:
        execution_input = json.loads(input_json)
    except ValueError as error:
        raise OperationError(f"--input is not JSON: {error}") from None
    _refuse_language(execution_input)
    target = Stage.connect(stage, Project.find())
    arn = executions.start(target, "RetrainStateMachine", execution_input, name)
    console.print(arn)
    if not follow:
        return
    follow_execution(target, arn, "retraining")


def _refuse_language(execution_input: Any) -> None:
    """Say at once what the state machine would: no translation is begun whose outcome nobody can judge."""
    target = execution_input.get("target_language") if isinstance(execution_input, dict) else None
    try:
        if isinstance(target, str):
            languages.find(target)
    except languages.UnknownLanguageError as error:
        raise OperationError(f"--input: target_language {error}") from None


def follow_execution(stage: Stage, execution: str, what: str) -> None:
    """Show what happens in an execution until it ends; one that fails is this command's failure."""
    with ExecutionView() as view:
        for item in executions.follow(stage, execution, poll_seconds=0.5 if stage.name == "local" else 5.0):
            view.show(item)
    outcome = executions.outcome(stage, execution)
    if not outcome.succeeded:
        raise OperationError(f"the {what} ended {outcome.status}: {outcome.cause}")
    console.print(f"[green]✓[/] {outcome.status}")


def status(stage: StageOption = "local") -> None:
    """Show the live model, the endpoint and the newest executions."""
    target = Stage.connect(stage, Project.find())
    live = target.live_model()
    console.print(f"Live model  {live[0] + '  ' + live[1] if live else 'none yet'}")
    console.print(escape(f"Endpoint    {endpoint.look(target)}"))
    console.print(f"API         {target.api_url}")
    table = Table(box=None, header_style="dim")
    for column in ("Machine", "Execution", "Status", "Started"):
        table.add_column(column)
    for machine in ("RetrainStateMachine", "DeployStateMachine"):
        for item in executions.latest(target, machine, 5):
            started = item["startDate"].astimezone().strftime("%Y-%m-%d %H:%M:%S")
            table.add_row(machine.removesuffix("StateMachine"), item["name"], item["status"], started)
    console.print(table)


def rerank(
    query: Annotated[str, typer.Option("-q", "--query", help="The question.")],
    documents: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="One document a line: text, or a JSON object with text or any fields. Default: standard input.",
        ),
    ] = None,
    stage: StageOption = "local",
    top_n: Annotated[int | None, typer.Option(min=1, help="Print only the best.")] = None,
    order: Annotated[
        str, typer.Option(help="relevance, or lost_in_the_middle: the best first and last, for long prompts.")
    ] = "relevance",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: index, score, document.")] = False,
) -> None:
    """Rerank documents through a stage's HTTPS API."""
    text = documents.read_text(encoding="utf-8") if documents else sys.stdin.read()
    # Lines end where a file's lines end: splitlines() would cut at U+2028, too, which JSON may hold as it is.
    lines = [line for line in text.split("\n") if line.strip()]
    found = [_document(line) for line in lines]
    if not found:
        raise OperationError("there are no documents: give a file with one a line, or pipe them in")
    target = Stage.connect(stage, Project.find())
    for item in asking.ask(target.api_url, target.api_key, query, found, top_n=top_n, order=order):
        if as_json:
            line = {"index": item.index, "score": item.score, "document": item.document}
            console.print(json.dumps(line, ensure_ascii=False), markup=False)
        else:
            shown = item.document if isinstance(item.document, str) else item.document.get("text") or lines[item.index]
            console.print(f"{item.score:.4f}  {escape(str(shown))}")


def _document(line: str) -> str | dict[str, Any]:
    if line.lstrip().startswith("{"):
        try:
            value = json.loads(line)
        except ValueError:
            return line
        if isinstance(value, dict):
            return value
    return line


@models.command()
def register(
    model: Annotated[
        str,
        typer.Argument(
            help="A hub id such as BAAI/bge-reranker-v2-m3 or BAAI/bge-reranker-v2-m3@COMMIT, a folder, or an s3:// prefix."
        ),
    ],
    stage: StageOption = "local",
    approve: Annotated[bool, typer.Option(help="Approve it at once, which makes it live.")] = True,
) -> None:
    """Put a model into the registry: how the first model is chosen."""
    console.print(packages.register(Stage.connect(stage, Project.find()), model, approve=approve))


@models.command("list")
def list_models(stage: StageOption = "local") -> None:
    """List the registry, the newest first."""
    target = Stage.connect(stage, Project.find())
    live = target.live_model()
    table = Table(box=None, header_style="dim")
    for column in ("Version", "Approval", "Live", "ARN", "Description"):
        table.add_column(column, overflow="fold")
    for item in packages.packages(target):
        mark = "live" if live and live[0] == item.arn else ""
        table.add_row(str(item.version), item.approval, mark, item.arn, escape(item.description))
    console.print(table)


@models.command()
def approve(
    package: Annotated[str, typer.Argument(help="A package's ARN or version number.")],
    stage: StageOption = "local",
) -> None:
    """Approve a model package, which deploys it."""
    console.print(f"Approved: {packages.approve(Stage.connect(stage, Project.find()), package)}")


@models.command()
def rollback(
    package: Annotated[
        str | None, typer.Argument(help="An approved package's ARN or version number.", show_default="the one live before")
    ] = None,
    stage: StageOption = "local",
) -> None:
    """Make an approved package live again: the deploy state machine, started by hand."""
    target = Stage.connect(stage, Project.find())
    arn, execution = packages.rollback(target, package)
    console.print(f"Back to {arn}")
    follow_execution(target, execution, "release")
