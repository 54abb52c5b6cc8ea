"""The execution input: everything optional, everything checked at once, everything echoed resolved."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loading import load

from ko_reranker.data.errors import PipelineError

execution_input = load("check_input", "execution_input")

DEFAULTS = execution_input.Defaults(
    bucket="bucket",
    job_name_prefix="ko-reranker-prod-",
    recipes=("ko-reranker-v1", "ko-reranker-v2", "tiny"),
    max_training_hours=24.0,
    max_instances=4,
    dev_fraction=0.02,
    max_rejected_fraction=0.01,
    dataset="sample",
    source_language="en",
    target_language="ko",
    max_translation_usd=50.0,
    formality=None,
    terminology=None,
    recipe="ko-reranker-v2",
    base_model="BAAI/bge-reranker-v2-m3",
    instance_type="ml.g5.12xlarge",
    instance_count=1,
    use_spot=False,
    mine_negatives=True,
    approval="manual",
)
# SageMaker's own pattern, with room for the longest ending that a job adds to its run's name.
JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,53}")


def resolve(value: Any, execution: str = "run-1") -> dict[str, Any]:
    return execution_input.resolve(value, execution, DEFAULTS)


def test_nothing_given_takes_every_default() -> None:
    request = resolve({})
    assert (request["dataset"], request["recipe"], request["approval"]) == ("sample", "ko-reranker-v2", "manual")
    assert request["translate"] is True
    assert request["prefix"] == "runs/run-1"
    assert request["job_name"] == "ko-reranker-prod-run-1"
    assert request["hyperparameters"] == {"recipe": "ko-reranker-v2", "base_model": "BAAI/bge-reranker-v2-m3"}
    assert request["stopping_condition"] == {"MaxRuntimeInSeconds": 86400}


def test_equal_languages_translate_nothing_and_null_is_a_field_left_out() -> None:
    assert resolve({"source_language": "ko", "formality": None})["translate"] is False


def test_hyperparameters_become_strings_as_sagemaker_wants_them() -> None:
    request = resolve({"hyperparameters": {"epochs": 2, "learning_rate": 1e-5, "shuffle": False}})
    assert request["hyperparameters"]["epochs"] == "2"
    assert request["hyperparameters"]["learning_rate"] == "1e-05"
    assert request["hyperparameters"]["shuffle"] == "false"


def test_spot_training_may_wait_and_other_training_must_not_say_so() -> None:
    assert resolve({"use_spot": True})["stopping_condition"]["MaxWaitTimeInSeconds"] == 172800


def test_the_data_bucket_can_be_named_without_knowing_it() -> None:
    request = resolve({"base_model": "s3://{data_bucket}/models/mine/"})
    assert request["hyperparameters"]["base_model"] == "s3://bucket/models/mine/"


def test_a_continued_run_keeps_its_folder_and_gets_new_job_names() -> None:
    request = resolve({"continue_run": "first-try"}, "second-try")
    assert (request["run"], request["prefix"]) == ("first-try", "runs/first-try")
    assert request["job_name"] == "ko-reranker-prod-second-try"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "../secret"),
        ("source_language", "auto"),
        ("max_translation_usd", -1),
        ("max_translation_usd", True),
        ("dry_run", "yes"),
        ("formality", "CASUAL"),
        ("recipe", "ko-reranker-v9"),
        ("base_model", "  "),
        ("hyperparameters", ["epochs"]),
        ("hyperparameters", {"epochs": [1]}),
        ("hyperparameters", {"base_model": "x"}),
        ("instance_type", "g5.xlarge"),
        ("instance_count", 0),
        ("instance_count", 5),
        ("use_spot", 1),
        ("approval", "later"),
        ("continue_run", "a/b"),
    ],
)
def test_a_wrong_value_is_told_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(PipelineError, match=field):
        resolve({field: value})


def test_all_mistakes_are_told_at_once_and_an_unknown_field_with_the_known_ones() -> None:
    with pytest.raises(PipelineError) as caught:
        resolve({"datset": "x", "instance_count": 0})
    for part in ("datset", "dataset", "instance_count"):
        assert part in str(caught.value)


@given(st.text(min_size=1, max_size=80))
def test_every_execution_name_gives_a_job_name_that_sagemaker_takes(name: str) -> None:
    assert JOB_NAME.fullmatch(resolve({}, name)["job_name"])


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_two_executions_never_share_a_run(names: list[str]) -> None:
    assert resolve({}, names[0])["run"] != resolve({}, names[1])["run"]


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_input_is_resolved_or_refused_with_a_sentence(value: Any) -> None:
    try:
        request = resolve(value)
    except PipelineError as error:
        assert str(error)
    else:
        assert request["run"]
