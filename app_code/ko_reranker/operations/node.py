"""Node.js and the AWS CDK's command line, which `make setup` installs beside the project."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ko_reranker.operations.errors import OperationError

_MAJOR = 20


def cdk_command(root: Path) -> Path:
    """The CDK command line of the project in the folder ``root``, whether it is there or not."""
    return root / "node_modules" / ".bin" / "cdk"


def check(root: Path) -> None:
    """Make sure that Node.js and the CDK command line are there.

    Raises:
        OperationError: saying what to install.
    """
    node = shutil.which("node")
    if node is None:
        raise OperationError(f"Node.js {_MAJOR} or newer is needed for the AWS CDK: install it from https://nodejs.org")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)", version)
    if not found or int(found.group(1)) < _MAJOR:
        raise OperationError(f"Node.js {_MAJOR} or newer is needed for the AWS CDK, and this is {version.strip()}")
    if not cdk_command(root).exists():
        raise OperationError("the AWS CDK command line is not installed here: run `make setup`")
