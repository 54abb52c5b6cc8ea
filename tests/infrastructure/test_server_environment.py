"""What a stage says about the rerank server reaches the endpoint's containers, whoever makes the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer.main
from synthesis import CONTEXT, Templates, synthesise
from template_differences import machines

from ko_reranker.cli import app
from ko_reranker.settings import Server, load_settings


def environments(templates: Templates) -> tuple[dict[str, str], dict[str, str]]:
    """The container's environment as CloudFormation makes the model, and as the deploy state machine does."""
    [model] = [item for item in templates["serving"]["Resources"].values() if item["Type"] == "AWS::SageMaker::Model"]
    states = dict(machines(templates["serving"]))["deploy"]["States"]
    made = states["Create the model"]["Parameters"]["PrimaryContainer"]
    return model["Properties"]["PrimaryContainer"]["Environment"], made["Environment"]


def test_both_ways_to_make_a_model_give_it_the_settings(prod: Templates) -> None:
    by_stack, by_machine = environments(prod)
    assert by_stack == by_machine
    assert by_stack["KO_RERANKER_DTYPE"] == "auto"
    given = {
        "precision": "bf16",
        "batch_tokens": 8192,
        "max_queue_tokens": 200_000,
        "max_waiting": 64,
        "max_length": 1024,
        "log_level": "warning",
        "request_timeout_seconds": 50.0,
    }
    overrides = {
        f"serving.server.{key}": json.dumps(value) if not isinstance(value, str) else value for key, value in given.items()
    }
    templates = synthesise("prod", **{"serving.enabled": "true", **overrides})[0]
    by_stack, by_machine = environments(templates)
    assert (
        by_stack
        == by_machine
        == {
            "KO_RERANKER_DTYPE": "bf16",
            "KO_RERANKER_BATCH_TOKENS": "8192",
            "KO_RERANKER_MAX_QUEUE_TOKENS": "200000",
            "KO_RERANKER_MAX_WAITING": "64",
            "KO_RERANKER_MAX_LENGTH": "1024",
            "KO_RERANKER_LOG_LEVEL": "warning",
            "KO_RERANKER_REQUEST_TIMEOUT": "50.0",
        }
    )
    # The evaluation's golden queries are asked of the endpoint: it must score them as that will.
    evaluate = dict(machines(templates["pipeline"]))["retrain"]["States"]["Evaluate"]["Parameters"]
    arguments = evaluate["AppSpecification"]["ContainerArguments.$"]
    assert "'--dtype', 'bf16'" in arguments and "'--max-length', '1024'" in arguments


def test_the_container_has_no_more_time_than_the_api_has(prod: Templates) -> None:
    for templates, seconds in (
        (prod, 24.0),
        (synthesise("prod", **{"serving.enabled": "true", "api.deadline_seconds": "11"})[0], 11.0),
    ):
        by_stack, _ = environments(templates)
        [function] = [
            item["Properties"]
            for item in templates["api"]["Resources"].values()
            if item["Type"] == "AWS::Lambda::Function"
            and "PARALLEL_CALLS" in item["Properties"].get("Environment", {}).get("Variables", {})
        ]
        assert float(by_stack["KO_RERANKER_REQUEST_TIMEOUT"]) == seconds
        assert float(function["Environment"]["Variables"]["DEADLINE_SECONDS"]) == seconds
        assert seconds < function["Timeout"] <= 29


VALUES: dict[str, Any] = {"precision": "fp32", "log_level": "error", "request_timeout_seconds": 9.5, "max_waiting_mb": 1.5}


@pytest.mark.parametrize("key", Server.model_fields)
def test_every_setting_of_the_server_is_a_variable_that_it_reads(key: str) -> None:
    value = VALUES.get(key, 32)
    environment = Server(**{"precision": "auto", "log_level": "info", key: value}).environment
    assert str(value) in environment.values()
    read = {parameter.envvar for parameter in typer.main.get_command(app).commands["serve"].params}
    assert set(environment) <= read


def test_a_stage_of_cpus_may_take_int8() -> None:
    given = {"stage": "prod", "serving.instance_type": "ml.c7i.2xlarge", "serving.server.precision": "int8"}
    assert load_settings({**CONTEXT, **given}).server_environment["KO_RERANKER_DTYPE"] == "int8"
