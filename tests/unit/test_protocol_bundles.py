"""Each Lambda of the request path runs from its own bundle: its folder, the protocol and the standard library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A meta-path finder that refuses what a bundle doesn't bring along.
GUARD = """
import sys
ALLOWED = {"ko_reranker", *LOCAL}
class Guard:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in ALLOWED and root not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not in the bundle", name=name)
sys.meta_path.insert(0, Guard())
"""


def run(bundle: Path, program: str) -> str:
    local = {path.stem for path in bundle.glob("*.py")}
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        "PATH": os.environ["PATH"],
        "ENDPOINT_NAME": "live-endpoint",
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    setup = f"import sys\nsys.path[:0] = [{str(bundle)!r}]\nsys.path.append({site!r})\nLOCAL = {local!r}\n{GUARD}\n"
    # -S: no site-packages of its own, hence no editable install that would hide a missing file.
    command = [sys.executable, "-I", "-S", "-c", setup + program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=bundle)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def bundle(tmp_path):
    def build(function: str, *packages: str) -> Path:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "lambda" / function, tmp_path, ignore=ignore, dirs_exist_ok=True)
        source = ROOT / "app_code" / "ko_reranker"
        if packages:
            (tmp_path / "ko_reranker").mkdir()
        for package in packages:
            if (source / package).is_dir():
                shutil.copytree(source / package, tmp_path / "ko_reranker" / package, ignore=ignore)
            else:
                shutil.copy(source / f"{package}.py", tmp_path / "ko_reranker")
        if packages:
            shutil.copy(source / "__init__.py", tmp_path / "ko_reranker")
        return tmp_path

    return build


def test_the_rerank_function_runs_from_its_bundle(bundle):
    program = """
import json
import ko_reranker.protocol
assert "boto3" not in sys.modules, "the protocol needs the standard library only"
import handler
event = {"httpMethod": "POST", "path": "/v2/rerank", "headers": None, "body": '{"query": ""}', "requestContext": {}}
print(json.dumps(handler.handler(event, None)))
"""
    lines = run(bundle("rerank", "protocol", "embedded_metrics"), program).splitlines()
    assert json.loads(lines[-1])["statusCode"] == 422


def test_the_authorizer_runs_from_its_bundle_and_needs_nothing(bundle):
    program = """
import handler
assert "boto3" not in sys.modules and "ko_reranker" not in sys.modules
event = {"methodArn": "arn:aws:execute-api:r:1:api/live/GET/", "headers": {"x-api-key": "k" * 20}}
print(handler.handler(event, None)["usageIdentifierKey"])
"""
    assert run(bundle("authorizer"), program).strip() == "k" * 20
