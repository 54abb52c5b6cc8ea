"""What `make test-aws` does in an account, rehearsed in the local cloud by the same code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from deployed_stage import PROJECT, free_port

from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage
from ko_reranker.settings import load_settings
from local_cloud import deploying
from local_cloud.cloud import LocalCloud

sys.path.insert(0, str(PROJECT / "tests" / "aws"))
from journey import SETTINGS, Journey, Report


@pytest.mark.slow
def test_a_stages_life_in_the_local_cloud(tmp_path: Path) -> None:
    project, report = Project.find(PROJECT), Report("local", "ap-northeast-2", tmp_path / "report")
    with LocalCloud(tmp_path, free_port(), free_port()) as cloud:
        journey = Journey(
            report,
            lambda: Stage.connect("local", project, cloud=cloud),
            bootstrap=lambda: deploying.bootstrap(PROJECT, cloud),
            deploy=lambda settings: deploying.deploy(PROJECT, cloud, stage="local", settings=settings),
        )
        assert journey.run(), (report.folder / "report.md").read_text()
    assert [step["ok"] for step in json.loads((report.folder / "report.json").read_text())["steps"]] == [True] * 10


@pytest.mark.parametrize("stage", ["local", "dev"])
def test_its_settings_are_valid(stage: str) -> None:
    context = json.loads((PROJECT / "cdk.json").read_text())["context"]
    assert load_settings({**context, "stage": stage, **SETTINGS}).training.recipe == "mini"


def test_after_a_failure_the_stage_is_taken_away_and_the_report_says_so(tmp_path: Path) -> None:
    said: list[str] = []

    def refuse(_: object = None) -> None:
        raise RuntimeError("no | quota")

    report = Report("aws", "ap-northeast-2", tmp_path)
    journey = Journey(report, refuse, deploy=refuse, bootstrap=lambda: None, say=said.append)  # type: ignore[arg-type]
    assert not journey.run()
    written = json.loads((tmp_path / "report.json").read_text())
    assert [(step["step"], step["ok"]) for step in written["steps"]] == [
        ("cdk bootstrap", True),
        ("cdk deploy, without an endpoint", False),
        ("destroy the stage", False),
        ("look for what is left", False),
    ]
    assert written["ok"] is False
    assert "| ✗ cdk deploy, without an endpoint | 0 s | RuntimeError: no / quota |" in (tmp_path / "report.md").read_text()
