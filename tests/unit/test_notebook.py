"""The request that a notebook sends is read from the deployed state machine; the SDK's part is tested by test-sagemaker."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from cdk.constructs.jobs import training_job
from ko_reranker import notebook
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

CHECK = "arn:aws:lambda:ap-northeast-2:111122223333:function:check"
TRAIN = training_job(image="image:1", role_arn="arn:role", bucket="data", key_arn="arn:key", volume_gb=100)
REQUEST = {
    "run": "mine",
    "prefix": "runs/mine",
    "job_name": "ko-reranker-dev-mine",
    "hyperparameters": {"recipe": "tiny", "epochs": "2"},
    "instance_type": "ml.g5.xlarge",
    "instance_count": 2,
    "use_spot": True,
    "stopping_condition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
}


class Aws:
    """The services of a stage: a state machine, the function that checks the input, a bucket."""

    def __init__(self, *keys: str, train: dict[str, Any] | None = None, answer: Any = REQUEST, failed: bool = False) -> None:
        states = {"Check the input": {"Resource": CHECK}, "Train": {"Parameters": train or TRAIN}}
        self._definition, self._keys = json.dumps({"States": states}), keys
        self._answer = {"Payload": io.BytesIO(json.dumps(answer).encode()), **({"FunctionError": "x"} if failed else {})}
        self.checked: dict[str, Any] = {}

    def stage(self) -> Stage:
        outputs = {"RetrainStateMachine": "arn:machine", "DataBucket": "data"}
        return Stage("dev", "ko-reranker-dev", "ap-northeast-2", lambda _: self, _outputs=outputs)

    def describe_state_machine(self, **_: str) -> dict[str, str]:
        return {"definition": self._definition}

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        assert FunctionName == CHECK
        self.checked = json.loads(Payload)
        return self._answer

    def list_objects_v2(self, *, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:
        found = [{"Key": key} for key in self._keys if key.startswith(Prefix)]
        return {"Contents": found[:MaxKeys]} if found else {}


def test_the_request_is_the_deployed_state_with_everything_filled_in() -> None:
    aws = Aws("runs/earlier/dataset/train.jsonl")
    request = notebook.training_request(aws.stage(), "earlier", "mine", {"recipe": "tiny"})
    assert aws.checked == {"input": {"recipe": "tiny"}, "execution": "mine"}
    assert "$" not in re.sub(r'"Regex": "[^"]*"', "", json.dumps(request))
    assert request["TrainingJobName"] == "ko-reranker-dev-mine-0-0"
    assert request["HyperParameters"] == {"recipe": "tiny", "epochs": "2"}
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://data/runs/earlier/dataset/"
    assert request["OutputDataConfig"]["S3OutputPath"] == "s3://data/models/mine/"
    assert request["CheckpointConfig"]["S3Uri"] == "s3://data/runs/mine/checkpoints/"
    assert (request["ResourceConfig"]["InstanceCount"], request["EnableManagedSpotTraining"]) == (2, True)
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120}
    assert request["AlgorithmSpecification"]["TrainingImage"] == "image:1"


@pytest.mark.parametrize(
    ("keys", "data", "uri"),
    [
        (("runs/r/dataset/train.jsonl", "runs/r/mined/train.jsonl"), "r", "s3://data/runs/r/mined/"),
        ((), "s3://data/runs/own/set", "s3://data/runs/own/set/"),
    ],
)
def test_the_data_is_what_a_run_trained_on_or_a_prefix(keys: tuple[str, ...], data: str, uri: str) -> None:
    request = notebook.training_request(Aws(*keys).stage(), data, "mine", {})
    assert request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == uri


def test_what_the_function_says_of_a_wrong_field_is_the_error() -> None:
    aws = Aws(answer={"errorMessage": "recipe must be one of tiny"}, failed=True)
    with pytest.raises(OperationError, match="recipe must be one of tiny"):
        notebook.training_request(aws.stage(), "s3://data/x", "mine", {"recipe": "x"})


def test_a_run_without_a_dataset_is_told() -> None:
    with pytest.raises(OperationError, match="the run 'nobody' has no dataset"):
        notebook.training_request(Aws().stage(), "nobody", "mine", {})


@pytest.mark.parametrize("expression", ["$.request.colour", "States.ArrayGetItem($.live.parts, 0)"])
def test_a_state_machine_of_another_version_is_told(expression: str) -> None:
    aws = Aws(train={**TRAIN, "TrainingJobName.$": expression})
    with pytest.raises(OperationError, match="use the one that the stage was deployed with"):
        notebook.training_request(aws.stage(), "s3://data/x", "mine", {})
