"""A stage's templates as the CDK writes them, without an account."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.node import cdk_command
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import EDGE_STACK, NETWORK_STACK, STACKS

Templates = dict[str, dict[str, Any]]


def synthesise(
    project: Project, stage: str, overrides: Mapping[str, str] | None = None, *, output: Path | None = None
) -> Templates:
    """Return a stage's templates by stack.

    Args:
        overrides: settings by dotted key, as ``-c`` takes them.
        output: an empty folder that gets the CDK's whole assembly; None keeps none.

    Raises:
        OperationError: with the end of what the CDK said.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(output or temporary)
        given = [argument for key, value in (overrides or {}).items() for argument in ("--context", f"{key}={value}")]
        command = [str(cdk_command(project.root)), "synth", "--quiet", "--output", folder]
        # cdk-nag has its own place: the deploy.
        environment = {**os.environ, "CDK_VALIDATION": "false", "CDK_DISABLE_VERSION_CHECK": "1", "CI": "true"}
        try:
            done = subprocess.run(
                [*command, "--context", f"stage={stage}", *given],
                cwd=project.root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise OperationError(f"the CDK command line can't be started ({error.strerror}): run `make setup`") from None
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
            raise OperationError(f"the templates of stage {stage} can't be written:\n{tail}")
        return read(Path(folder), project.settings(stage, overrides).prefix)


def read(folder: Path, prefix: str) -> Templates:
    """Return the templates of a stage in a folder of the CDK's, such as cdk.out.

    Raises:
        OperationError: when there is none.
    """
    found = {}
    for stack in (*STACKS, EDGE_STACK, NETWORK_STACK):
        path = folder / f"{prefix}-{stack}.template.json"
        if path.is_file():
            found[stack] = json.loads(path.read_text(encoding="utf-8"))
    if not found:
        raise OperationError(f"there is no template of {prefix} in {folder}: write them with `make synth`")
    return found


def state_machines(templates: Templates) -> dict[str, dict[str, Any]]:
    """Return the definitions of the state machines by name; what CloudFormation fills in has stand-ins of its form."""
    found = {}
    for template in templates.values():
        for item in template["Resources"].values():
            if item["Type"] == "AWS::StepFunctions::StateMachine":
                properties = item["Properties"]
                name = text(properties.get("StateMachineName", "")).rsplit("-", 1)[-1]
                found[name] = json.loads(text(properties["DefinitionString"]))
    return found


def text(value: Any) -> str:
    """A string of a template, with stand-ins for what only CloudFormation knows: names, ARNs, the partition."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return str(value)
    kind, inner = next(iter(value.items()))
    if kind == "Fn::Sub":
        return str(inner if isinstance(inner, str) else inner[0])
    if kind == "Fn::Join":
        return str(inner[0]).join(text(part) for part in inner[1])
    if kind == "Ref":
        known = {"AWS::Partition": "aws", "AWS::AccountId": "111122223333", "AWS::Region": "ap-northeast-2"}
        return known.get(inner, re.sub(r"[^A-Za-z0-9-]", "-", inner))
    if kind == "Fn::GetAtt" and str(inner[-1]).endswith("Arn"):
        return f"arn:aws:service:ap-northeast-2:111122223333:{inner[0]}"
    if kind == "Fn::ImportValue":
        where = text(inner)
        return f"arn:aws:service:ap-northeast-2:111122223333:{where.rpartition(':')[2]}" if "Arn" in where else "imported-name"
    return "known-at-deploy"
