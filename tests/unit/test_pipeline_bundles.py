"""Each Lambda of the pipeline runs from its own bundle: its folder, parts of the library, the standard one and boto3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from ko_reranker.recipes.shipped import recipes
from ko_reranker.retraining.execution_input import Defaults
from ko_reranker.retraining.run import Run
from ko_reranker.retraining.training_request import TrainingPlace, training_request
from tests.unit.pipeline_support import RUN

ROOT = Path(__file__).parents[2]
PLACE = TrainingPlace("image:1", "arn:role", "b", "arn:key", 30)
DEFAULTS = [field.name for field in fields(Defaults) if field.name != "recipes"]
SETTINGS = {
    "DEFAULTS": json.dumps(dict.fromkeys(DEFAULTS)),
    "TRAINING": json.dumps(asdict(PLACE)),
    "DATA_BUCKET": "b",
    "TRANSLATION_MEMORY": "t",
    "USD_PER_MILLION_CHARACTERS": "15",
    "CHARACTERS_PER_SECOND": "5000",
    "SHARD_BYTES": "524288",
    "CONCURRENCY": "8",
    "GATE": '{"metric": "mrr", "must_beat": {}}',
    "METRICS_NAMESPACE": "ko-reranker",
    "ENDPOINT_NAME": "ko-reranker-local",
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


def run(function: str, folder: Path, program: str = "", **settings: str) -> str:
    """Import a function's handler in its bundle, run a program behind it, and return what that prints."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lambda" / function, folder, ignore=ignore, dirs_exist_ok=True)
    package = ROOT / "app_code" / "ko_reranker"
    for part in ("data", "languages", "text", "recipes", "retraining"):
        shutil.copytree(package / part, folder / "ko_reranker" / part, ignore=ignore)
    for module in ("__init__", "checked", "embedded_metrics", "instances"):
        shutil.copy(package / f"{module}.py", folder / "ko_reranker")
    (folder / "recipes.json").write_text(json.dumps(recipes()))
    own = {"ko_reranker", *(path.stem for path in folder.glob("*.py"))}
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        **SETTINGS,
        **settings,
        "PATH": os.environ["PATH"],
        "AWS_DEFAULT_REGION": "ap-northeast-2",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    # -S: no site-packages of its own, hence no editable install that would hide a missing file.
    program = PROGRAM.format(bundle=str(folder), site=site, own=own) + program
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("function", ["check_input", "plan", "translate", "join", "shard_failures", "gate"])
def test_a_function_of_the_pipeline_needs_nothing_but_its_bundle(function, tmp_path):
    run(function, tmp_path)


def test_the_first_function_answers_with_the_run_and_its_training_job(tmp_path):
    asked = asdict(RUN) | {"bucket": "b", "job_name_prefix": "ko-reranker-dev-", "max_training_hours": 1.0, "max_instances": 4}
    asked["reaches_the_hub"] = True
    defaults = {name: asked[name] for name in DEFAULTS}
    event = {"input": {"recipe": "tiny", "use_spot": False}, "execution": "r", "data": "s3://b/runs/own/"}
    program = f"import json; print(json.dumps(handler.handler({event!r}, None)))"
    answer = json.loads(run("check_input", tmp_path, program, DEFAULTS=json.dumps(defaults)))
    found = Run.from_json(answer)
    assert (found.name, found.recipe, found.use_spot) == ("r", "tiny", False)
    assert answer == found.to_json() | {"training_job": training_request(found, PLACE, data="s3://b/runs/own/")}
