"""The container image comes without the extras and without the local cloud: its commands must not need them."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_EXTRAS = """
import importlib.util, sys
extras = {"httpx", "ministack", "cryptography", "aws_cdk", "awslambdaric", "jsonpath_ng", "moto", "pytest", "local_cloud"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in extras:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in extras else found(name, package)
sys.argv = ["ko-reranker", *sys.argv[1:]]
from ko_reranker.cli import main
main()
"""


def without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True, check=False)


def test_the_command_line_starts_without_the_extras() -> None:
    done = without_extras("train", "--help")
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_a_command_of_the_local_cloud_says_how_to_install_it() -> None:
    done = without_extras("local", "run", "--once")
    assert done.returncode == 1
    assert "the local cloud isn't installed here (local_cloud and ministack can't be imported)" in done.stderr
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr
    assert "local" not in without_extras("--help").stdout.split("Commands:")[1]
