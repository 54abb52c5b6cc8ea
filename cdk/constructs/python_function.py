"""A Lambda function of this repository: its folder under lambda/ and the pure-Python parts of the library it names."""

from __future__ import annotations

import compileall
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge
from cdk.constructs.observed import labelled
from cdk.constructs.permissions import allow

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_VERSION = (3, 13)
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "py.typed")


class PythonFunction(Construct):
    """A function with its own role, its own log group, and nothing in its bundle but what it imports.

    Bundles are plain copies, made without Docker and the same on every machine; boto3 comes with the runtime.

    Args:
        folder: the function's folder under ``lambda/``, whose ``handler.py`` has ``handler``.
        library: sub-packages and modules of ``ko_reranker`` to bundle, such as ``data`` and ``instances``.
        documents: JSON by file name, in the function's folder: what the 4 KB of an environment have no room for.
        environment: the function's settings; its handler refuses to start without them.
        timeout: how long one invocation may take.
        memory_mb: memory in MiB, which also buys CPU.
        ephemeral_gb: space under /tmp in GiB.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        folder: str,
        library: Sequence[str] = (),
        documents: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: cdk.Duration | None = None,
        memory_mb: int = 512,
        ephemeral_gb: float = 0.5,
    ) -> None:
        super().__init__(scope, construct_id)
        self.log_group = log_group = logs.LogGroup(
            self, "Logs", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        self.role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(self.role)
        self.function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler="handler.handler",
            code=lambda_.Code.from_asset(str(bundle(folder, library, documents))),
            role=self.role,
            timeout=timeout or cdk.Duration.seconds(30),
            memory_size=memory_mb,
            ephemeral_storage_size=cdk.Size.mebibytes(int(ephemeral_gb * 1024)),
            environment=dict(environment or {}),
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
        )
        acknowledge(self.function, "L1", reason="Python 3.13 is the newest that the library is tested on.")

    def metric(self, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        """One of Lambda's metrics of the function, over five minutes."""
        return labelled("AWS/Lambda", name, {"FunctionName": self.function.function_name}, statistic, label)

    def allow(self, *actions: str, on: Sequence[str], because: str | None = None) -> None:
        """Let the function do ``actions`` on the resources ``on`` (ARNs), see `permissions.allow`."""
        allow(self.role, *actions, on=on, because=because)


def bundle(folder: str, library: Sequence[str], documents: Mapping[str, Any] | None = None) -> Path:
    """Copy a function's folder, library parts and documents to a place of this process's own and return it.

    Another synth at the same time, into whatever folder, finds nothing of it and takes nothing away.
    """
    target = Path(tempfile.mkdtemp(dir=_workshop().name)) / folder
    shutil.copytree(ROOT / "lambda" / folder, target, ignore=_IGNORED)
    package = ROOT / "app_code" / "ko_reranker"
    if library:
        (target / "ko_reranker").mkdir()
        shutil.copy2(package / "__init__.py", target / "ko_reranker")
    for part in library:
        if (package / part).is_dir():
            shutil.copytree(package / part, target / "ko_reranker" / part, ignore=_IGNORED)
        else:
            shutil.copy2(package / f"{part}.py", target / "ko_reranker")
    for name, document in (documents or {}).items():
        (target / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    add_byte_code(target)
    return target


@functools.cache
def _workshop() -> tempfile.TemporaryDirectory[str]:
    """The folder of this process's bundles; it goes when the process ends, and the assembly has its own copies by then."""
    return tempfile.TemporaryDirectory(prefix="ko-reranker-bundles-")


def add_byte_code(target: Path, version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Ship byte code, which saves its share of every cold start, where this Python is the one that runs the function.

    Hash-based: byte code with time stamps would be another asset after every checkout, and ignored once unpacked.
    """
    if version == RUNTIME_VERSION:
        mode = PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(target, quiet=1, stripdir=str(target), prependdir="/var/task", invalidation_mode=mode)
