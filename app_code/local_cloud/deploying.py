"""Deploying a stage into the local cloud with the real CDK command line."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ko_reranker.operations import executions, packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.node import cdk_command
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from local_cloud.cloud import LocalCloud

_FIRST_MODEL_SECONDS = 300


def deploy_local_stage(
    project: Project,
    cloud: LocalCloud,
    step: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Stage:
    """Deploy the local stage into a running local cloud, and choose its first model where it has none.

    Args:
        step: called with what is being done; its context lasts as long as that.
    """
    with step("cdk bootstrap"):
        bootstrap(project.root, cloud)
    stage = Stage.connect("local", project, cloud=cloud)
    if not _has_live_model(stage):
        # As on AWS: an endpoint can't start without a model, so the first deploy leaves it out.
        with step("cdk deploy, without an endpoint yet"):
            deploy(project.root, cloud, stage="local", settings={"serving.enabled": "false"})
        with step("Choose the first model: register it, approve it"):
            packages.register(stage, project.settings("local").training.base_model, approve=True)
            _wait_for_live_model(stage)
    with step("cdk deploy"):
        deploy(project.root, cloud, stage="local")
    # Afresh: what the stacks put out was read before there was an endpoint.
    return Stage.connect("local", project, cloud=cloud)


def _has_live_model(stage: Stage) -> bool:
    try:
        return stage.live_model() is not None
    except OperationError:
        return False


def _wait_for_live_model(stage: Stage) -> None:
    deadline = time.monotonic() + _FIRST_MODEL_SECONDS
    while stage.live_model() is None:
        for item in executions.latest(stage, "DeployStateMachine", 1):
            if item["status"] not in ("RUNNING", "SUCCEEDED"):
                cause = executions.outcome(stage, item["executionArn"]).cause
                raise OperationError(f"the first model could not be deployed: {cause}")
        if time.monotonic() > deadline:
            raise OperationError(f"the first model was not deployed within {_FIRST_MODEL_SECONDS} s")
        time.sleep(0.3)


def bootstrap(root: Path, cloud: LocalCloud) -> None:
    """Run `cdk bootstrap` for the local cloud's account, once."""
    cloudformation = cloud.client("cloudformation")
    stacks = cloudformation.list_stacks(StackStatusFilter=["CREATE_COMPLETE", "UPDATE_COMPLETE"])["StackSummaries"]
    if any(stack["StackName"] == "CDKToolkit" for stack in stacks):
        return
    qualifier = Project.find(root).settings("local").identity.bootstrap_qualifier
    # Away from cdk.json, or the app would be synthesised first.
    with tempfile.TemporaryDirectory() as folder:
        target = f"aws://{cloud.settings.account_id}/{cloud.settings.region}"
        _run([str(cdk_command(root)), "bootstrap", "--qualifier", qualifier, target], Path(folder), cloud)


def deploy(
    root: Path,
    cloud: LocalCloud,
    *,
    stage: str,
    settings: Mapping[str, str] | None = None,
    stacks: Sequence[str] = ("--all",),
) -> None:
    """Run `cdk deploy` of a stage into the local cloud.

    Args:
        settings: what the command line lays over the stage's own, such as ``serving.enabled``.
        stacks: names or patterns of the stacks that are wanted; what they depend on comes along.
    """
    overrides = [argument for key, value in (settings or {}).items() for argument in ("--context", f"{key}={value}")]
    command = [str(cdk_command(root)), "deploy", *stacks, "--require-approval", "never", "--progress", "events"]
    # Each cloud has an output folder of its own: the CDK lets one deploy at a time use one.
    _run([*command, "--context", f"stage={stage}", *overrides, "--output", str(cloud.settings.home / "cdk.out")], root, cloud)


def _run(command: Sequence[str], folder: Path, cloud: LocalCloud) -> None:
    # cdk-nag and the CDK's own validation belong to the tests and to deploys on AWS; here they would double the time.
    environment = {**os.environ, "CDK_VALIDATION": "false", "CDK_DISABLE_VERSION_CHECK": "1", "CI": "true"}
    done = subprocess.run(
        command, cwd=folder, env=cloud.process_environment(environment), capture_output=True, text=True, check=False
    )
    log = cloud.settings.home / "cdk.log"
    with log.open("a") as stream:
        stream.write(f"$ {' '.join(command)}\n{done.stdout}\n{done.stderr}\n")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise OperationError(f"`cdk {command[1]}` failed; its whole output is in {log} and ends:\n{tail}")
