"""What the state machine passes to the image's commands are options that they have, with the settings' values."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import typer
from synthesis import Templates, synthesise
from template_differences import machines

from ko_reranker.commands import evaluate, jobs


def arguments(templates: Templates, state: str) -> list[str]:
    """A job's arguments; what is known only when the state runs stands there as an expression."""
    definition = dict(machines(templates["pipeline"]))["retrain"]
    given = definition["States"][state]["Parameters"]["AppSpecification"]["ContainerArguments.$"]
    inner = given.removeprefix("States.Array(").removesuffix(")").replace("($.live.parts, 1)", "[1]")
    return next(csv.reader([inner], quotechar="'", skipinitialspace=True))


def parsed(command: Any, given: list[str]) -> dict[str, Any]:
    program = typer.Typer()
    program.command()(command)
    return typer.main.get_command(program).make_context("job", list(given), resilient_parsing=False).params


def test_the_settings_of_mining_are_options_of_its_command(prod: Templates) -> None:
    found = parsed(jobs.mine, arguments(prod, "Mine hard negatives"))
    assert (found["negatives"], found["rank_from"], found["rank_to"], found["max_overlap"]) == (7, 3, 100, 0.6)
    assert (found["teacher"], found["teacher_margin"]) == (None, 1.0)


def test_the_settings_of_the_evaluation_and_the_servers_are_options_of_its_command(prod: Templates) -> None:
    found = parsed(evaluate.evaluate, arguments(prod, "Evaluate"))
    assert (found["candidate"], found["base"]) == ("$.training.model_data", "$.request.base_model")
    assert found["deployed"] == "States.ArrayGetItem[1]"
    assert (found["candidates"], found["first_stage"], found["dtype"], found["max_length"]) == (
        50,
        "morphemes+bigrams",
        "auto",
        None,
    )


@pytest.fixture(scope="module")
def changed() -> Templates:
    settings = {"mining.teacher": "s3://bucket/it's/", "serving.server.precision": "fp32", "serving.server.max_length": "256"}
    return synthesise("prod", **settings)[0]


def test_an_evaluation_scores_as_the_endpoint_will_and_a_quote_is_a_quote(changed: Templates) -> None:
    found = parsed(evaluate.evaluate, arguments(changed, "Evaluate"))
    assert (found["dtype"], found["max_length"]) == ("fp32", 256)
    assert r"'s3://bucket/it\'s/'" in str(dict(machines(changed["pipeline"]))["retrain"]).replace("\\\\", "\\")
