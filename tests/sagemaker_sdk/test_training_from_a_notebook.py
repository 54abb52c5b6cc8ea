"""A training started from a notebook is the state machine's own, and its log is followed to the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sagemaker.core.resources import TrainingJob

from ko_reranker import notebook
from ko_reranker.operations import executions, packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

PROJECT = Path(os.environ["PROJECT"])
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "train_in_a_notebook.py"
# What is the same for any two jobs of the stage that were asked for the same.
ASKED = ("AlgorithmSpecification", "CheckpointConfig", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining")
ASKED += ("HyperParameters", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "RoleArn", "StoppingCondition")


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage.connect("local", Project.find(PROJECT))


@pytest.fixture(scope="module")
def machine_run(stage: Stage) -> dict[str, Any]:
    """The training job that the state machine started for a few Korean records."""
    rows = [
        {
            "query": f"{n}번 문서를 여는 방법",
            "pos": [f"{n}번 문서는 파일 메뉴의 열기 명령으로 엽니다."],
            "neg": [f"{n}번 길은 시청 앞을 지납니다.", "제주도는 화산섬입니다."],
        }
        for n in range(40)
    ]
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    bucket = stage.output("DataBucket")
    stage.client("s3").put_object(Bucket=bucket, Key="raw/notebook/records.jsonl", Body=body.encode())
    execution_input = {
        "dataset": "notebook",
        "source_language": "ko",
        "mine_negatives": False,
        "hyperparameters": {"epochs": 1},  # as the example asks for, so that both ask for the same
        "instance_count": 1,
    }
    name = f"machine-{time.time_ns()}"
    arn = executions.start(stage, "RetrainStateMachine", execution_input, name)
    sagemaker, prefix = stage.client("sagemaker"), f"{stage.prefix}-{name}"
    deadline = time.monotonic() + 400
    while True:
        found = sagemaker.list_training_jobs(NameContains=prefix)["TrainingJobSummaries"]
        if found:
            return sagemaker.describe_training_job(TrainingJobName=found[0]["TrainingJobName"]) | {"run": name}
        outcome = executions.outcome(stage, arn)
        assert outcome.status == "RUNNING" and time.monotonic() < deadline, outcome.cause
        time.sleep(0.3)


def asked(job: dict[str, Any], run: str) -> Any:
    """What a job was asked for, without its run's name."""
    return json.loads(json.dumps({name: job[name] for name in ASKED}, default=str).replace(run, "RUN"))


@pytest.fixture(scope="module")
def printed(machine_run: dict[str, Any]) -> str:
    """What the example shows, run on the data of the state machine's run."""
    command = [sys.executable, str(EXAMPLE), "local", machine_run["run"]]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def model(printed: str) -> str:
    """The address of the model that the example trained."""
    found = re.search(r"models register (s3://\S+)", printed)
    assert found, printed
    return found[1]


def test_the_log_is_shown_while_the_job_runs(printed: str) -> None:
    assert re.search(r"step=1/\d+ .*loss=", printed)
    assert "'torch'" in printed  # the run card's versions


def test_the_job_is_asked_for_as_the_state_machine_asks(stage: Stage, machine_run: dict[str, Any], model: str) -> None:
    run, name = model.split("/")[4:6]
    job = TrainingJob.get(name)
    assert (job.training_job_status, job.model_artifacts.s3_model_artifacts) == ("Completed", model.rstrip("/"))
    described = stage.client("sagemaker").describe_training_job(TrainingJobName=name)
    data = described["InputDataConfig"][0]["DataSource"]["S3DataSource"]
    assert data["S3Uri"].endswith(f"/runs/{machine_run['run']}/dataset/")
    data["S3Uri"] = data["S3Uri"].replace(machine_run["run"], run)
    assert asked(described, run) == asked(machine_run, machine_run["run"])


def test_its_model_goes_into_the_registry_as_it_lies(stage: Stage, model: str) -> None:
    package = packages.register(stage, model, approve=False)
    described = stage.client("sagemaker").describe_model_package(ModelPackageName=package)
    container = described["InferenceSpecification"]["Containers"][0]
    assert container["ModelDataSource"]["S3DataSource"]["S3Uri"] == model


def test_a_wrong_field_is_told_in_the_state_machines_words(machine_run: dict[str, Any]) -> None:
    with pytest.raises(OperationError, match="There is no recipe"):
        notebook.train("local", machine_run["run"], recipe="grandmother's", project=PROJECT)


def test_a_run_without_a_dataset_is_told(stage: Stage) -> None:
    with pytest.raises(OperationError, match="the run 'nobody' has no dataset"):
        notebook.train("local", "nobody", project=PROJECT)
