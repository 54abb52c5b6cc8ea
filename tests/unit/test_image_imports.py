"""The container image comes without the extras: its commands must not need them."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_EXTRAS = """
import importlib.util, sys
extras = {"httpx", "ministack", "cryptography", "aws_cdk", "awslambdaric", "jsonpath_ng", "moto", "pytest"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in extras:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in extras else found(name, package)
sys.argv = ["ko-reranker", "train", "--help"]
from ko_reranker.cli import main
main()
"""


def test_the_command_line_starts_without_the_extras() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
