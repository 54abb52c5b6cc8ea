"""A Lambda function of this repository: its folder under lambda/ and the pure-Python parts of the library it names."""

from __future__ import annotations

import compileall
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

ROOT = Path(__file__).resolve().parents[2]
_RUNTIME_VERSION = (3, 13)
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "py.typed")


class PythonFunction(Construct):
    """A function with its own role, its own log group, and nothing in its bundle but what it imports.

    Bundles are plain copies, made without Docker and the same on every machine; boto3 comes with the runtime.

    Args:
        folder: the function's folder under ``lambda/``, whose ``handler.py`` has ``handler``.
        library: sub-packages of ``ko_reranker`` to bundle, such as ``data``.
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
        environment: Mapping[str, str] | None = None,
        timeout: cdk.Duration | None = None,
        memory_mb: int = 512,
        ephemeral_gb: float = 0.5,
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = logs.LogGroup(
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
            code=lambda_.Code.from_asset(str(bundle(folder, library))),
            role=self.role,
            timeout=timeout or cdk.Duration.seconds(30),
            memory_size=memory_mb,
            ephemeral_storage_size=cdk.Size.mebibytes(int(ephemeral_gb * 1024)),
            environment=dict(environment or {}),
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
        )

    def allow(self, *actions: str, on: Sequence[str]) -> None:
        """Let the function do ``actions`` on the resources ``on`` (ARNs)."""
        self.role.add_to_principal_policy(iam.PolicyStatement(actions=list(actions), resources=list(on)))


def bundle(folder: str, library: Sequence[str]) -> Path:
    """Copy a function's folder and library parts to one place and return it."""
    target = ROOT / "cdk.out" / ".bundles" / folder
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "lambda" / folder, target, ignore=_IGNORED)
    package = ROOT / "app_code" / "ko_reranker"
    if library:
        (target / "ko_reranker").mkdir()
        shutil.copy2(package / "__init__.py", target / "ko_reranker")
    for part in library:
        shutil.copytree(package / part, target / "ko_reranker" / part, ignore=_IGNORED)
    _compile(target)
    return target


def _compile(target: Path, version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Ship byte code, which saves its share of every cold start, where this Python is the one that runs the function.

    Hash-based: byte code with time stamps would be another asset after every checkout, and ignored once unpacked.
    """
    if version == _RUNTIME_VERSION:
        mode = PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(target, quiet=1, stripdir=str(target), prependdir="/var/task", invalidation_mode=mode)
