"""Settings are read once, and what is wrong with them is told by key."""

from __future__ import annotations

from typing import Any

import pytest
from synthesis import CONTEXT

from ko_reranker.instances import AMPERE, gpu_of
from ko_reranker.settings import SettingsError, load_settings


def settings(**overrides: Any):
    return load_settings({**CONTEXT, **overrides})


@pytest.mark.parametrize("stage", ["local", "dev", "prod"])
def test_every_stage_of_cdk_json_is_valid(stage: str) -> None:
    assert settings(stage=stage).prefix == f"ko-reranker-{stage}"


def test_a_stage_lies_over_the_defaults() -> None:
    assert settings(stage="local").training.instance_count == 2
    assert settings(stage="prod").training.instance_count == 1


def test_an_override_on_the_command_line_lies_over_both_and_takes_its_type() -> None:
    found = settings(stage="local", **{"training.instance_count": "3", "serving.enabled": "false", "image.uri": "a/b:c"})
    assert (found.training.instance_count, found.serving.enabled, found.image.uri) == (3, False, "a/b:c")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("training", "instance_count", True, "training.instance_count: Input should be a valid integer (is True)"),
        ("training", "instance_count", "2", "training.instance_count: Input should be a valid integer (is '2')"),
        ("training", "instance_count", 2.0, "training.instance_count: Input should be a valid integer (is 2.0)"),
        ("training", "max_hours", True, "training.max_hours: Input should be a valid number (is True)"),
        ("training", "max_hours", "24", "training.max_hours: Input should be a valid number (is '24')"),
        ("training", "use_spot", 1, "training.use_spot: Input should be a valid boolean (is 1)"),
        ("training", "use_spot", "true", "training.use_spot: Input should be a valid boolean (is 'true')"),
        ("data", "service_log_days", True, "data.service_log_days: Input should be a valid integer (is True)"),
        ("data", "service_log_days", 31, "data.service_log_days: must be one of 1, 3, 5"),
        (
            "evaluation",
            "must_beat",
            {"base": {"margin": True}},
            "evaluation.must_beat.base.margin: Input should be a valid number",
        ),
        ("release", "poll_seconds", None, "release.poll_seconds: Input should be a valid integer (is None)"),
    ],
)
def test_cdk_json_means_what_it_spells(section: str, key: str, value: object, said: str) -> None:
    """There a text is no number and true neither; only the command line's texts are read as what they spell."""
    blocks = {**CONTEXT["settings"], "dev": {section: {key: value}}}
    with pytest.raises(SettingsError) as caught:
        load_settings({**CONTEXT, "settings": blocks, "stage": "dev"})
    assert said in str(caught.value)


def test_a_whole_number_does_where_a_number_is_asked_for() -> None:
    assert settings(stage="prod", **{"training.max_hours": "3"}).training.max_hours == 3


@pytest.mark.parametrize(("spelt", "meant"), [("true", True), ("false", False), ("True", True), ("False", False)])
def test_the_command_line_may_spell_booleans_as_python_does(spelt: str, meant: bool) -> None:
    assert settings(stage="prod", **{"training.use_spot": spelt}).training.use_spot is meant


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("serving.max_instances", "1", "serving: max_instances must be at least min_instances"),
        (
            "schedule.capacity",
            '[{"at": "cron(0 8 ? * * *)", "min_instances": 3, "max_instances": 2}]',
            "schedule.capacity.0: max_instances must be at least min_instances",
        ),
        ("training.instance_count", "many", "training.instance_count"),
        ("training.instance_type", "g5.xlarge", "training.instance_type"),
        ("serving.gpus", "1", "serving.gpus is not a setting"),
        ("translation.max_rejected_fraction", "2", "translation.max_rejected_fraction"),
        ("serving.min_instances", "1", "canary needs min_instances"),
        ("alerts.email", "nobody", "alerts.email"),
        ("serving.server.precision", "half", "serving.server.precision"),
        ("serving.server.precision", "int8", "has a GPU"),
        ("serving.server.batch_tokens", "0", "serving.server.batch_tokens"),
        ("serving.server.log_level", "loud", "serving.server.log_level"),
        ("serving.server.dtype", "fp32", "serving.server.dtype is not a setting"),
        ("api.deadline_seconds", "29", "api.deadline_seconds"),
        ("region", "Seoul", "region"),
        ("translation.target_language", "ja", "translation.target_language: must be ko (Korean), is 'ja'"),
        ("evaluation.must_beat", "[]", "evaluation.must_beat"),
        ("evaluation.must_beat.base.demand", "better", "evaluation.must_beat.base.demand"),
        ("evaluation.must_beat.baseline.demand", "above", "evaluation.must_beat.baseline is not a setting"),
        ("evaluation.must_beat.base.margin", "2", "evaluation.must_beat.base: margin must be from -1 to 1"),
        ("evaluation.must_beat.base.by", "2", "evaluation.must_beat.base.by is not a setting"),
        (
            "training.recipe",
            "ko-reranker-v9",
            "recipe must be one of ko-colbert-v1, ko-generative-v1, ko-reranker-v1, ko-reranker-v2, mini, tiny-colbert",
        ),
        ("evaluation.first_stage", "bigrams", "evaluation.first_stage"),
        ("training.instance_type", "ml.g4dn.xlarge", "training: ml.g4dn.xlarge has a T4, which has no bf16"),
        ("training.instance_type", "ml.p3.8xlarge", "training: ml.p3.8xlarge has a V100"),
        ("evaluation.instance_type", "ml.p2.xlarge", "evaluation: ml.p2.xlarge has a K80"),
        ("serving.instance_type", "ml.p3.2xlarge", "serving: ml.p3.2xlarge has a V100"),
        ("translation.max_translation_usd", "2000000", "translation.max_translation_usd"),
        ("translation.max_translation_usd", "Infinity", "translation.max_translation_usd"),
        ("training.base_model", " ", "a retraining's defaults: the execution input is not valid: base_model must be a string"),
        ("translation.terminology", '""', "a retraining's defaults: the execution input is not valid: terminology must be"),
        ("training.max_instances", "0.5", "training.max_instances"),
        ("training.instance_count", "5", "instance_count must be at most 4 (training.max_instances in cdk.json)"),
        (
            "schedule.retraining_input",
            '{"datset": "x"}',
            "schedule.retraining_input: the execution input is not valid: unknown",
        ),
        (
            "schedule.retraining_input",
            '{"hyperparameters": {"epochs": "abc"}}',
            "schedule.retraining_input: the execution input is not valid: Hyperparameter epochs = 'abc' must be a number",
        ),
    ],
)
def test_a_value_that_does_not_do_is_told_by_its_key(key: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match="stage prod") as caught:
        settings(stage="prod", **{key: value})
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(stage="prod", **{"training.max_hours": "0", "api.burst": "-1"})
    assert "training.max_hours" in str(caught.value)
    assert "api.burst" in str(caught.value)


def test_an_unknown_stage_is_told_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="local, dev, prod"):
        settings(stage="staging")


def test_every_stage_asks_a_candidate_not_to_be_below_anything() -> None:
    for stage in ("local", "dev", "prod"):
        asked = settings(stage=stage).evaluation.must_beat.asked
        assert {name: one.demand for name, one in asked.items()} == dict.fromkeys(("none", "base", "deployed"), "not_below")


def test_a_gate_that_asks_for_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="one of none, base and deployed"):
        settings(stage="local", **{f"evaluation.must_beat.{row}.demand": "nothing" for row in ("none", "base", "deployed")})


def test_an_older_gpu_goes_with_a_precision_that_it_has() -> None:
    chosen = {"training.instance_type": "ml.g4dn.12xlarge", "training.recipe": "ko-reranker-v1"}
    assert settings(stage="prod", **chosen).training.instance_type == "ml.g4dn.12xlarge"
    assert settings(stage="prod", **{"evaluation.instance_type": "ml.g4dn.xlarge"}).evaluation


def test_evaluation_computes_as_the_endpoint_does() -> None:
    """The same GPU takes the same precision and kernels: what is evaluated is what is served."""
    found = settings(stage="prod")
    assert gpu_of(found.evaluation.instance_type) == gpu_of(found.serving.instance_type)
    assert gpu_of(found.evaluation.instance_type).capability >= AMPERE
