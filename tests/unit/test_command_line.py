"""The command line helps, and tells errors in one line with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ko_reranker.cli import app

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "ko-reranker"


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        "retrain",
        "status",
        "rerank",
        "doctor",
        "cost",
        "capacity",
        "train",
        "mine",
        "evaluate",
        "serve",
        "models register",
        "models rollback",
        "endpoint off",
        "endpoint on",
        "endpoint status",
        "local run",
        "local up",
    ],
)
def test_every_command_has_help_that_says_what_it_does(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 5


def test_outside_a_project_the_error_says_where_to_go(tmp_path: Path) -> None:
    done = run("status", "--stage", "local", cwd=tmp_path)
    assert done.returncode == 1
    assert "cdk.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_local_cloud_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    (tmp_path / "cdk.json").write_text((ROOT / "cdk.json").read_text())
    done = run("status", cwd=tmp_path)
    assert done.returncode == 1
    assert "make run" in done.stderr


def test_an_unknown_stage_is_told_with_the_known_ones() -> None:
    done = run("status", "--stage", "staging")
    assert done.returncode == 1
    assert "local, dev, prod" in done.stderr


def test_an_input_that_is_not_json_is_told() -> None:
    done = run("retrain", "--input", "{dataset: x}")
    assert done.returncode == 1
    assert "--input is not JSON" in done.stderr
