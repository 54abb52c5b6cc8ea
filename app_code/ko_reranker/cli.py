"""The command line: `ko-reranker COMMAND --help`."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from ko_reranker import __version__, cuda_compat
from ko_reranker.commands import capacity, cost, data, destroy, doctor, endpoint, jobs, keys, pipeline
from ko_reranker.commands.console import errors
from ko_reranker.commands.evaluate import evaluate
from ko_reranker.commands.serve import serve
from ko_reranker.operations import local
from ko_reranker.operations.errors import OperationError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A Korean reranker in your own AWS account, and the same stack on this machine.",
)
_STAGE, _IMAGE = "On a stage, local or AWS", "Commands of the container image"

app.command(rich_help_panel=_STAGE)(pipeline.retrain)
app.command(rich_help_panel=_STAGE)(pipeline.status)
app.command(rich_help_panel=_STAGE)(pipeline.rerank)
app.command(rich_help_panel=_STAGE)(doctor.doctor)
app.command(rich_help_panel=_STAGE)(cost.cost)
app.command(rich_help_panel=_STAGE)(capacity.capacity)
app.command(rich_help_panel=_STAGE)(destroy.destroy)
app.add_typer(pipeline.models, name="models", rich_help_panel=_STAGE)
app.add_typer(endpoint.app, name="endpoint", rich_help_panel=_STAGE)
app.add_typer(keys.app, name="keys", rich_help_panel=_STAGE)
app.add_typer(data.app, name="data", help="Training data: validate, plan, stats, convert; on this machine, without an account.")
app.command(rich_help_panel=_IMAGE)(jobs.train)
app.command(rich_help_panel=_IMAGE)(jobs.mine)
app.command(rich_help_panel=_IMAGE)(evaluate)
app.command(rich_help_panel=_IMAGE)(serve)
try:
    app.add_typer(local.commands(), rich_help_panel=_STAGE)
except OperationError:
    # The container image comes without the local cloud: the command is not listed there, and says so when asked for.
    @app.command("local", hidden=True, context_settings={"ignore_unknown_options": True})
    def _local(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        local.require()


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"ko-reranker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each request to AWS: method, path, status.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        # Method, path and status of each request. botocore's own debug log would hold bodies: text and keys.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.DEBUG)


def main() -> None:
    """Run the command line; what a person can act on is told in one line, without a traceback."""
    cuda_compat.use_if_needed()
    try:
        app()
    except OperationError as error:
        errors.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
