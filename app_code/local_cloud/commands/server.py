"""``ko-reranker local up | down | status | env | interrupt``: the local cloud's server."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from local_cloud.cloud import LocalCloud, LocalCloudError
from local_cloud.commands.options import GatewayPort, Port, Root
from local_cloud.settings import DEFAULT_GATEWAY_PORT, DEFAULT_PORT, SettingsError


def up(
    port: Port = DEFAULT_PORT,
    gateway_port: GatewayPort = DEFAULT_GATEWAY_PORT,
    root: Root = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal until Ctrl-C instead of running in the background.")
    ] = False,
) -> None:
    """Start the local cloud. One that already runs here is left as it is; what an earlier one held is there again."""
    try:
        cloud = LocalCloud(_folder(root), port, gateway_port)
        was_running = cloud.running()
        cloud.start(detach=not foreground)
    except (LocalCloudError, SettingsError) as error:
        raise OperationError(str(error)) from None
    typer.echo("The local cloud was already running." if was_running else "The local cloud is up.")
    _describe(cloud)
    if foreground and not was_running:
        _stay(cloud)
    elif foreground:
        typer.echo("It belongs to another terminal; stop it with: ko-reranker local down")


def down(root: Root = None) -> None:
    """Stop the local cloud with its jobs and endpoints. Its state stays for the next `up`."""
    try:
        stopped = LocalCloud(_folder(root)).stop()
    except LocalCloudError as error:
        raise OperationError(str(error)) from None
    typer.echo("The local cloud is stopped; its state is kept." if stopped else "No local cloud runs here.")


def status(root: Root = None) -> None:
    """Show whether the local cloud runs here, its addresses, endpoints and running jobs. Exit status 1 when it does not."""
    cloud = _running(root)
    _describe(cloud)
    sagemaker = cloud.client("sagemaker")
    for endpoint in sagemaker.list_endpoints(MaxResults=100)["Endpoints"]:
        typer.echo(f"endpoint         {endpoint['EndpointName']}: {endpoint['EndpointStatus']}")
    for job in sagemaker.list_training_jobs(StatusEquals="InProgress", MaxResults=100)["TrainingJobSummaries"]:
        typer.echo(f"training job     {job['TrainingJobName']}: {job['SecondaryStatus']}")
    for job in sagemaker.list_processing_jobs(StatusEquals="InProgress", MaxResults=100)["ProcessingJobSummaries"]:
        typer.echo(f"processing job   {job['ProcessingJobName']}: running")


def env(root: Root = None) -> None:
    """Print the variables that lead the AWS CLI, boto3 and the CDK CLI to the local cloud: eval "$(ko-reranker local env)"."""
    for name, value in _running(root).environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def interrupt(
    training_job: Annotated[str, typer.Argument(help="A running training job on spot instances, as `local status` lists it.")],
    root: Root = None,
) -> None:
    """Take a spot training job's instances away, as AWS may at any moment: it starts again from its checkpoints."""
    try:
        _running(root).interrupt(training_job)
    except LocalCloudError as error:
        raise OperationError(str(error)) from None
    typer.echo(f"{training_job} is interrupted; it goes on by itself.")


def _folder(root: Path | None) -> Path:
    return root if root is not None else Project.find().root


def _running(root: Path | None) -> LocalCloud:
    folder = _folder(root)
    cloud = LocalCloud.running_in(folder)
    if cloud is None:
        raise OperationError(f"no local cloud runs in {folder.resolve()}: start it with `ko-reranker local up`")
    return cloud


def _describe(cloud: LocalCloud) -> None:
    settings = cloud.settings
    typer.echo(f"AWS APIs         {settings.endpoint_url}  (account {settings.account_id}, {settings.region})")
    typer.echo(f"rerank API       {settings.gateway_url}/v2/rerank")
    typer.echo(f"log              {cloud.log}")


def _stay(cloud: LocalCloud) -> None:
    """Wait for Ctrl-C, then stop the server cleanly; a second Ctrl-C does not cut that short."""
    typer.echo("Ctrl-C stops it.")
    # A plain `kill` ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        ended = cloud.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        typer.echo("\nStopping the local cloud …")
        cloud.stop()
        typer.echo("It is stopped; its state is kept.")
        return
    raise OperationError(f"the local cloud ended by itself (status {ended}); the end of {cloud.log}:\n{cloud.last_log_lines()}")
