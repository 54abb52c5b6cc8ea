"""Each Lambda of the pipeline runs from its own bundle: its folder, `ko_reranker.data`, the standard library and boto3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "DATA_BUCKET": "b",
    "TRANSLATION_MEMORY": "t",
    "USD_PER_MILLION_CHARACTERS": "15",
    "CHARACTERS_PER_SECOND": "5000",
    "SHARD_BYTES": "524288",
    "CONCURRENCY": "8",
}
# Refuses what neither the bundle nor Lambda's runtime brings along.
PROGRAM = """
import sys
sys.path[:0] = [{bundle!r}]
sys.path.append({site!r})
RUNTIME = {{"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3"}}
class Guard:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in RUNTIME | {own!r} and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{{name}} is not in the bundle", name=name)
sys.meta_path.insert(0, Guard())
import handler
assert callable(handler.handler)
"""


@pytest.mark.parametrize("function", ["plan", "translate", "join", "shard_failures"])
def test_a_function_of_the_pipeline_needs_nothing_but_its_bundle(function, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lambda" / function, tmp_path, ignore=ignore, dirs_exist_ok=True)
    package = ROOT / "app_code" / "ko_reranker"
    shutil.copytree(package / "data", tmp_path / "ko_reranker" / "data", ignore=ignore)
    shutil.copy(package / "__init__.py", tmp_path / "ko_reranker")
    own = {"ko_reranker", *(path.stem for path in tmp_path.glob("*.py"))}
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        **SETTINGS,
        "PATH": os.environ["PATH"],
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    # -S: no site-packages of its own, hence no editable install that would hide a missing file.
    program = PROGRAM.format(bundle=str(tmp_path), site=site, own=own)
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
