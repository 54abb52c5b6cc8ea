"""A function's process that dies or hangs in the local cloud is called again, as the stacks' states say, and at most twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_
from local_support import Account, allow, free_port, one_state

from cdk.constructs.states import invoke
from local_cloud.cloud import LocalCloud

SOURCE = """
import os, signal, time

def handle(event, context):
    with open(event["calls"], "a+") as calls:
        calls.write(".")
        calls.seek(0)
        number = len(calls.read())
    if number <= event["deaths"]:
        if event["how"] == "exit":
            os._exit(3)
        if event["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if event["how"] == "raise":
            raise ValueError("a defect")
        time.sleep(60)
    return {"calls": number}
"""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    root = tmp_path_factory.mktemp("cloud")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), wait_scale=0.02) as cloud:
        yield Account(cloud)


@pytest.fixture(scope="module")
def function(account: Account) -> str:
    arn = account.function(SOURCE)
    account.client("lambda").update_function_configuration(FunctionName=arn, Timeout=2)
    return arn


@pytest.fixture(scope="module")
def state(function: str) -> dict[str, Any]:
    """A state as both state machines have it: less its catch, which is its owner's."""
    stack = cdk.Stack(cdk.App(), "Stack")
    called = lambda_.Function.from_function_arn(stack, "Function", function)
    made = invoke(
        stack, "Call", called, {"calls.$": "$.calls"}, result_path="$", result_selector=None, failure=None, comment="A call"
    )
    written = made.to_state_json()
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload.$": "$"},
        "OutputPath": "$.Payload",
        "Retry": stack.resolve(written["Retry"]),
    }


def run(account: Account, state: dict[str, Any], function: str, calls: Path, how: str, deaths: int) -> dict[str, Any]:
    data = {"calls": str(calls), "how": how, "deaths": deaths}
    return account.run(one_state(state), allow("lambda:InvokeFunction", function), data=data, seconds=60)


@pytest.mark.parametrize("how", ["exit", "kill", "hang"])
def test_a_process_that_dies_twice_is_called_a_third_time(account, state, function, tmp_path, how) -> None:
    result = run(account, state, function, tmp_path / "calls", how, 2)
    assert (result["status"], result.get("output")) == ("SUCCEEDED", {"calls": 3}), result


def test_a_process_that_always_dies_fails_with_its_own_error(account, state, function, tmp_path) -> None:
    result = run(account, state, function, tmp_path / "calls", "exit", 99)
    assert (result["status"], result["error"]) == ("FAILED", "Runtime.ExitError")
    assert (tmp_path / "calls").read_text() == "..."


def test_a_defect_is_not_tried_again(account, state, function, tmp_path) -> None:
    result = run(account, state, function, tmp_path / "calls", "raise", 99)
    assert (result["status"], result["error"]) == ("FAILED", "ValueError")
    assert (tmp_path / "calls").read_text() == "."


def test_one_of_few_shards_that_crashes_does_not_end_the_translation(account, state, function, tmp_path) -> None:
    crashes = [{"calls": str(tmp_path / str(n)), "how": "kill", "deaths": 1 if n == 2 else 0} for n in range(5)]
    map_state = {
        "Type": "Map",
        "Label": "Shards",
        "ItemsPath": "$.items",
        "ToleratedFailurePercentage": 5,
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
            "StartAt": "Translate",
            "States": {"Translate": {**state, "End": True}},
        },
    }
    rights = (allow("lambda:InvokeFunction", function), allow("states:StartExecution"))
    result = account.run(one_state(map_state), *rights, data={"items": crashes}, seconds=60)
    assert result["status"] == "SUCCEEDED", json.dumps(result, default=str)
    assert [row["calls"] for row in result["output"]] == [1, 1, 2, 1, 1]
