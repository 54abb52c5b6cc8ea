"""The request that a notebook sends is made by the stage's own function; the SDK's part is tested by test-sagemaker."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from ko_reranker import notebook
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage
from ko_reranker.retraining.training_request import TrainingPlace, training_request
from tests.unit.pipeline_support import RUN

PLACE = TrainingPlace("image:1", "arn:role", "data", "arn:key", 100)


class Aws:
    """The services of a stage: the function that checks the input, and a bucket."""

    def __init__(self, *keys: str, refusal: str | None = None, outputs: tuple[str, ...] = ("CheckInputFunction",)) -> None:
        self._keys, self._refusal = keys, refusal
        self._outputs = {"DataBucket": "data", **dict.fromkeys(outputs, "check")}
        self.event: dict[str, Any] = {}

    def stage(self) -> Stage:
        return Stage("dev", "ko-reranker-dev", "ap-northeast-2", lambda _: self, _outputs=self._outputs)

    def describe_stacks(self, **_: str) -> dict[str, Any]:
        return {"Stacks": [{}]}

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        assert FunctionName == "check"
        self.event = json.loads(Payload)
        if self._refusal:
            return {"Payload": io.BytesIO(json.dumps({"errorMessage": self._refusal}).encode()), "FunctionError": "Unhandled"}
        answer = RUN.to_json() | {"training_job": training_request(RUN, PLACE, data=self.event["data"])}
        return {"Payload": io.BytesIO(json.dumps(answer).encode())}

    def list_objects_v2(self, *, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:
        found = [{"Key": key} for key in self._keys if key.startswith(Prefix)]
        return {"Contents": found[:MaxKeys]} if found else {}


def test_the_request_is_what_the_stages_function_says_under_the_runs_name() -> None:
    aws = Aws("runs/earlier/dataset/train.jsonl")
    request = notebook.training_request(aws.stage(), "earlier", "mine", {"recipe": "tiny"})
    data = "s3://data/runs/earlier/dataset/"
    assert aws.event == {"input": {"recipe": "tiny"}, "execution": "mine", "data": data}
    assert request == {"TrainingJobName": RUN.job_name, **training_request(RUN, PLACE, data=data)}


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
    aws = Aws(refusal="recipe must be one of tiny")
    with pytest.raises(OperationError, match="recipe must be one of tiny"):
        notebook.training_request(aws.stage(), "s3://data/x", "mine", {"recipe": "x"})


def test_a_run_without_a_dataset_is_told() -> None:
    with pytest.raises(OperationError, match="the run 'nobody' has no dataset"):
        notebook.training_request(Aws().stage(), "nobody", "mine", {})


def test_a_stage_that_has_no_such_function_yet_is_told_to_be_deployed() -> None:
    with pytest.raises(OperationError, match=r"stage dev has no CheckInputFunction.*cdk deploy"):
        notebook.training_request(Aws(outputs=()).stage(), "s3://data/x", "mine", {})
