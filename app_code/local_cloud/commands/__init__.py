"""The commands ``ko-reranker local …``."""

from __future__ import annotations

import typer

from local_cloud.commands import run, server

app = typer.Typer(
    name="local",
    help="The local cloud: the same templates, handlers and commands on this machine, without an AWS account or Docker.",
    no_args_is_help=True,
)
for command in (server.up, server.down, server.status, server.env, server.interrupt, run.deploy, run.run):
    app.command()(command)
