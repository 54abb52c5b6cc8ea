"""The execution input: everything optional, everything checked at once, everything echoed resolved."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_reranker.container import JobError, read_hyperparameters
from ko_reranker.data.errors import PipelineError
from ko_reranker.data.translation.texts import TranslationSettings
from ko_reranker.recipes import Recipe, changed
from ko_reranker.recipes.shipped import load_recipe, recipes
from ko_reranker.retraining import execution_input
from ko_reranker.retraining.execution_input import Defaults
from ko_reranker.retraining.run import Run

DEFAULTS = Defaults(
    bucket="bucket",
    job_name_prefix="ko-reranker-prod-",
    recipes=recipes(),
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


def resolve(value: Any, execution: str = "run-1") -> Run:
    return execution_input.resolve(value, execution, DEFAULTS)


def test_a_hub_id_is_refused_where_jobs_cannot_reach_the_hub() -> None:
    locked = replace(DEFAULTS, reaches_the_hub=False, base_model="s3://bucket/models/m/")
    with pytest.raises(PipelineError, match=r"base_model is BAAI/bge-reranker-v2-m3, an id of the Hugging Face hub"):
        execution_input.resolve({"base_model": "BAAI/bge-reranker-v2-m3"}, "run-1", locked)
    assert execution_input.resolve({}, "run-1", locked).base_model == "s3://bucket/models/m/"


def test_nothing_given_takes_every_default() -> None:
    run = resolve({})
    assert (run.dataset, run.recipe, run.approval) == ("sample", "ko-reranker-v2", "manual")
    assert run.translates and run.translation == TranslationSettings("en", "ko")
    assert (run.name, run.prefix) == ("run-1", "runs/run-1")
    assert run.job_name == "ko-reranker-prod-run-1"
    assert run.hyperparameters == {"recipe": "ko-reranker-v2", "base_model": "BAAI/bge-reranker-v2-m3"}
    assert run.stopping_condition == {"MaxRuntimeInSeconds": 86400}


def test_equal_languages_translate_nothing_and_null_is_a_field_left_out() -> None:
    assert not resolve({"source_language": "ko", "formality": None}).translates


def test_hyperparameters_become_strings_as_sagemaker_wants_them() -> None:
    run = resolve({"hyperparameters": {"epochs": 2, "learning_rate": 1e-5, "gradient_checkpointing": False}})
    assert run.hyperparameters["epochs"] == "2"
    assert run.hyperparameters["learning_rate"] == "1e-05"
    assert run.hyperparameters["gradient_checkpointing"] == "false"


def test_spot_training_may_wait_and_other_training_must_not_say_so() -> None:
    assert resolve({"use_spot": True}).stopping_condition["MaxWaitTimeInSeconds"] == 172800


def test_the_data_bucket_can_be_named_without_knowing_it() -> None:
    run = resolve({"base_model": "s3://{data_bucket}/models/mine/"})
    assert run.hyperparameters["base_model"] == "s3://bucket/models/mine/"


def test_a_continued_run_keeps_its_folder_and_gets_new_job_names() -> None:
    run = resolve({"continue_run": "first-try"}, "second-try")
    assert (run.name, run.prefix) == ("first-try", "runs/first-try")
    assert run.job_name == "ko-reranker-prod-second-try"
    assert run.continues is True and resolve({}, "first-try").continues is False


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "../secret"),
        ("source_language", "auto"),
        ("target_language", "ja"),
        ("target_language", 5),
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
    assert JOB_NAME.fullmatch(resolve({}, name).job_name)


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_two_executions_never_share_a_run(names: list[str]) -> None:
    assert resolve({}, names[0]).name != resolve({}, names[1]).name


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_input_is_resolved_or_refused_with_a_sentence(value: Any) -> None:
    try:
        run = resolve(value)
    except PipelineError as error:
        assert str(error)
    else:
        assert run.name


def sagemaker_text(value: Any) -> str:
    """A hyperparameter as the request of a training job has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


WORDS = st.sampled_from(
    [
        *("abc", "", "nan", "-inf", "true", "No", "1_0", " 7 ", "2.0", "2.5", "1e3", '"3"', '""', "fp16", '"bf16"'),
        *("full", "general-ko", "generative"),
    ]
)
VALUES = WORDS | st.integers(-2, 10_000) | st.floats(0, 2) | st.floats() | st.booleans() | st.text(max_size=5)
NAMES = st.sampled_from([field.name for field in fields(Recipe)])
OTHERS = st.sampled_from(["lr", "sagemaker_program", "_tuning_objective_metric", "base-model", ""])


@given(
    recipe=st.sampled_from(["ko-reranker-v2", "tiny", "tiny-colbert", "tiny-generative", '"tiny"', "huge"]),
    hyperparameters=st.dictionaries(NAMES | OTHERS, VALUES),
)
def test_what_the_training_refuses_is_refused_before_anything_is_paid_and_nothing_else(recipe, hyperparameters) -> None:
    """Whatever a hyperparameter is: the check and the training job, which reads what SageMaker writes, say the same."""
    hyperparameters.pop("base_model", None)  # a field of its own
    if any(re.search("[\n\r\x85\u2028\u2029]", f"{name}{value}") for name, value in hyperparameters.items()):
        with pytest.raises(PipelineError, match="SageMaker takes"):
            resolve({"recipe": recipe, "hyperparameters": hyperparameters})
        return
    with TemporaryDirectory() as folder:
        sent = {
            **{name: sagemaker_text(value) for name, value in hyperparameters.items()},
            "recipe": recipe,
            "base_model": DEFAULTS.base_model,
        }
        (Path(folder) / "hyperparameters.json").write_text(json.dumps(sent))
        try:
            trained_by = load_recipe(read_hyperparameters(Path(folder)))
        except JobError as error:
            with pytest.raises(PipelineError) as caught:
                resolve({"recipe": recipe, "hyperparameters": hyperparameters, "instance_type": "ml.m5.xlarge"})
            assert str(error).removesuffix(".") in str(caught.value)
        else:
            run = resolve({"recipe": recipe, "hyperparameters": hyperparameters, "instance_type": "ml.m5.xlarge"})
            assert changed(recipes(), run.hyperparameters) == trained_by


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"hyperparameters": {"epochs": "abc", "seed": -1}},
            "epochs = 'abc' must be a number above 0 and at most 1000; seed = '-1'",
        ),
        ({"hyperparameters": {"lr": 1e-5}}, "Unknown hyperparameter 'lr'; known are recipe, base_model, learning_rate"),
        ({"hyperparameters": {"dev_queries": 0}}, "early_stop_patience needs dev_queries"),
        ({"hyperparameters": {"seed": 10**14}}, "seed = '100000000000000' must be a whole number of at least 0 and at most"),
        ({"hyperparameters": {"instruction": "가" * 2501}}, "of at most 2500, each in one line; this value has 2501"),
        ({"hyperparameters": {"x" * 257: "1"}}, "SageMaker takes a name of at most 256 characters"),
        ({"hyperparameters": {"instruction": "one\ntwo"}}, "each in one line"),
        ({"recipe": "huge"}, "no recipe 'huge'; there are ko-colbert-v1, ko-generative-v1"),
    ],
)
def test_a_wrong_hyperparameter_is_told_as_the_training_would_tell_it(given, said) -> None:
    with pytest.raises(PipelineError, match=re.escape(said)):
        resolve(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"instance_type": "ml.g4dn.xlarge"}, "T4, which has no bf16"),
        ({"instance_type": "ml.g4dn.xlarge", "recipe": "tiny", "hyperparameters": {"precision": "bf16"}}, "no bf16"),
        ({"instance_type": "ml.p3.8xlarge", "recipe": "ko-reranker-v1"}, "V100"),
        ({"instance_type": "ml.g4dn.xlarge", "recipe": "ko-reranker-v1"}, None),
        ({"instance_type": "ml.g4dn.xlarge", "hyperparameters": {"precision": "fp16"}}, None),
        ({"instance_type": "ml.g6.12xlarge"}, None),
        ({"instance_type": "ml.m5.4xlarge"}, None),
    ],
)
def test_an_instance_that_cannot_compute_in_the_precision_is_refused_before_anything_is_paid(given, said) -> None:
    if said is None:
        assert resolve(given).instance_type == given["instance_type"]
        return
    with pytest.raises(PipelineError, match="instance_type and precision don't go together") as caught:
        resolve(given)
    assert said in str(caught.value)
