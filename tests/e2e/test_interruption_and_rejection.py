"""A retraining that loses its spot instances midway ends all the same; what it trained is no better, and is kept from release.

One run for both: its learning rate is so small that the candidate stays its base, an untrained model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from deployed_stage import Deployed
from test_failures import upload_korean_records
from test_whole_run import wait_in_service

from ko_reranker.operations import executions, packages
from ko_reranker.operations.executions import Outcome

NAME = "interrupted"
STEPS = 60


class Run(NamedTuple):
    """How the run ended, its training job, and what was live before."""

    outcome: Outcome
    job: dict[str, Any]
    live: tuple[str, str, str] | None
    configuration: str


@pytest.fixture(scope="module")
def run(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    upload_korean_records(deployed, tmp_path_factory.mktemp("records"), "korean")
    configuration, live = wait_in_service(deployed)["EndpointConfigName"], deployed.stage.live_model()
    execution_input = {
        "dataset": "korean",
        "source_language": "ko",
        "mine_negatives": False,
        "use_spot": True,
        "recipe": "tiny",  # small enough for many short steps
        "base_model": "sample:tiny",
        "hyperparameters": {
            "learning_rate": 1e-12,
            "epochs": STEPS,  # two hosts take a step an epoch: the batch holds all records
            "batch_queries": 64,
            "checkpoint_every_steps": 1,
            "log_every_steps": 1,
            "dev_queries": 0,
        },
    }
    arn = executions.start(deployed.stage, "RetrainStateMachine", execution_input, NAME)
    job = f"{deployed.stage.prefix}-{NAME}-0-0"
    wait_for_checkpoint(deployed, arn, deployed.cloud.settings.home / "sagemaker/training" / job / "algo-1/checkpoints")
    deployed.cloud.interrupt(job)
    for _ in executions.follow(deployed.stage, arn, poll_seconds=0.3):
        pass
    described = deployed.stage.client("sagemaker").describe_training_job(TrainingJobName=job)
    yield Run(executions.outcome(deployed.stage, arn), described, live, configuration)


def wait_for_checkpoint(deployed: Deployed, execution: str, folder: Path) -> None:
    deadline = time.monotonic() + 900
    while not any(folder.glob("*step-*")):
        outcome = executions.outcome(deployed.stage, execution)
        assert outcome.status == "RUNNING" and time.monotonic() < deadline, outcome.cause
        time.sleep(0.1)


def steps_of(deployed: Deployed, job: str) -> list[list[int]]:
    """The steps that the first host's log tells of, a list for each of its instances."""
    logs, group = deployed.stage.client("logs"), "/aws/sagemaker/TrainingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/algo-1-")["logStreams"]
    names = sorted(item["logStreamName"] for item in streams)
    pages = [logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"] for name in names]
    return [[int(found[1]) for event in page if (found := re.match(r"step=(\d+)/", event["message"]))] for page in pages]


def test_a_training_goes_on_where_it_was_when_its_spot_instances_are_taken_away(deployed: Deployed, run: Run) -> None:
    assert run.job["TrainingJobStatus"] == "Completed"
    statuses = [item["Status"] for item in run.job["SecondaryStatusTransitions"]]
    assert statuses.count("Interrupted") == 1
    assert statuses.count("Training") == 2
    before, after = steps_of(deployed, run.job["TrainingJobName"])
    assert before[0] == 1 and after[-1] == STEPS
    # A host is killed at any point: at most what came after its last checkpoint is done again.
    assert 1 < after[0] <= before[-1] + 2


def test_a_candidate_that_is_no_better_is_kept_with_the_reason_and_changes_nothing(deployed: Deployed, run: Run) -> None:
    assert run.outcome.status == "FAILED"
    assert "The candidate was not released. It had to be not below no reranker" in run.outcome.cause
    newest = next(packages.packages(deployed.stage))
    assert newest.approval == "Rejected"
    assert "The candidate was not released" in newest.description
    assert deployed.stage.live_model() == run.live
    endpoint = wait_in_service(deployed)
    assert (endpoint["EndpointConfigName"], endpoint["EndpointStatus"]) == (run.configuration, "InService")
