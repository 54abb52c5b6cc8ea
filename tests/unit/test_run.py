"""A run is what its state machine hands on, and its training job is a request that SageMaker's model takes."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict

import botocore.session
import pytest
from botocore.validate import ParamValidator

from ko_reranker.data.errors import PipelineError
from ko_reranker.retraining.run import Run
from ko_reranker.retraining.training_request import FIELDS, TrainingPlace, training_request
from tests.unit.pipeline_support import RUN, a_run

PLACE = TrainingPlace("image:1", "arn:aws:iam::111122223333:role/training", "data", "arn:key", 100)
# What the first state of the release 0.1.0 answers: executions under way when a stage is updated go on with it.
RELEASED = {
    "dataset": "d", "source_language": "en", "target_language": "ko", "max_translation_usd": 50.0, "dry_run": False,
    "formality": None, "terminology": None, "recipe": "ko-reranker-v2", "base_model": "hub/base",
    "hyperparameters": {"recipe": "ko-reranker-v2", "base_model": "hub/base"}, "instance_type": "ml.g5.xlarge",
    "instance_count": 2, "use_spot": True, "mine_negatives": True, "approval": "manual", "run": "r", "continues": False,
    "prefix": "runs/r", "job_name": "ko-reranker-dev-r", "translate": True, "dev_fraction": 0.3, "max_rejected_fraction": 0.5,
    "stopping_condition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
}  # fmt: skip


def test_a_run_comes_back_from_what_the_state_machine_hands_on() -> None:
    handed_on = json.loads(json.dumps(RUN.to_json() | {"training_job": {}}))
    assert Run.from_json(handed_on) == RUN
    assert (handed_on["run"], handed_on["prefix"]) == ("r", "runs/r")
    with pytest.raises(FrozenInstanceError):
        RUN.name = "other"  # type: ignore[misc]


def test_an_execution_that_the_last_release_began_is_gone_on_with() -> None:
    assert Run.from_json(RELEASED) == RUN
    # Nor does the last release's state machine miss a path in what the function answers now.
    assert RELEASED.keys() - RUN.to_json().keys() == {"translate"}


def test_every_field_that_is_missing_is_named() -> None:
    row = RUN.to_json()
    del row["run"], row["approval"]
    with pytest.raises(PipelineError, match="lacks approval, run: its first state"):
        Run.from_json(row)


def test_the_training_request_is_one_that_sagemaker_takes() -> None:
    request = training_request(RUN, PLACE)
    assert tuple(request) == FIELDS
    shape = botocore.session.get_session().get_service_model("sagemaker").shape_for("CreateTrainingJobRequest")
    report = ParamValidator().validate({"TrainingJobName": "job", **request}, shape)
    assert not report.has_errors(), report.generate_report()
    assert set(shape.required_members) <= {"TrainingJobName", *request}


def test_the_training_request_says_what_the_run_and_its_place_say() -> None:
    request = training_request(RUN, PLACE)
    assert request["RoleArn"] == PLACE.role_arn
    assert request["AlgorithmSpecification"]["TrainingImage"] == "image:1"
    assert request["HyperParameters"] == {"recipe": "ko-reranker-v2", "base_model": "hub/base"}
    assert request["OutputDataConfig"] == {
        "S3OutputPath": "s3://data/models/r/",
        "KmsKeyId": "arn:key",
        "CompressionType": "NONE",
    }
    assert request["CheckpointConfig"] == {"S3Uri": "s3://data/runs/r/checkpoints/", "LocalPath": "/opt/ml/checkpoints"}
    assert request["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 100}
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120}


@pytest.mark.parametrize(
    ("mines", "data", "uri"),
    [
        (True, None, "s3://data/runs/r/mined/"),
        (False, None, "s3://data/runs/r/dataset/"),
        (True, "s3://data/runs/other/dataset/", "s3://data/runs/other/dataset/"),
    ],
)
def test_a_run_trains_on_what_it_mined_or_joined_or_on_what_is_named(mines, data, uri) -> None:
    request = training_request(a_run(mine_negatives=mines), PLACE, data=data)
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == uri


def test_a_place_is_what_the_stack_writes_into_the_functions_environment() -> None:
    assert TrainingPlace(**json.loads(json.dumps(asdict(PLACE)))) == PLACE
