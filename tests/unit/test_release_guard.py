"""A deploy passes when no release is under way and the endpoint is there, and always when it goes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from loading import load

guarding = load("release_guard", "guarding")
EXECUTION = "arn:aws:states:ap-northeast-2:1:execution:ko-reranker-prod-deploy:e"


def pass_by(kind: str, status: str, holders: list[str | None], away: bool = False) -> tuple[str, int]:
    """Ask with the lock in the hands of one after the other; return the answer and how often it was waited."""
    waits: list[None] = []
    described = SimpleNamespace(describe_stacks=lambda StackName: {"Stacks": [{"StackStatus": status}]})
    event = {"RequestType": kind, "StackId": "s", "LogicalResourceId": "Guard"}
    held_by = iter(holders)
    passed = guarding.let_pass(
        event, described, held_by=lambda: next(held_by), wait=lambda: waits.append(None), is_away=lambda: away
    )
    return passed, len(waits)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("Create", "CREATE_IN_PROGRESS"), ("Create", "UPDATE_IN_PROGRESS"), ("Update", "UPDATE_IN_PROGRESS")],
)
def test_a_deploy_waits_for_a_look_at_the_endpoint_and_not_for_a_release(kind: str, status: str) -> None:
    assert pass_by(kind, status, [None]) == ("Guard", 0)
    assert pass_by(kind, status, [EXECUTION, EXECUTION, None]) == ("Guard", 2)
    with pytest.raises(guarding.ReleaseUnderWay, match=f"A release is under way, execution {EXECUTION}: deploy again when"):
        pass_by(kind, status, [EXECUTION] * 4)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("Update", "UPDATE_ROLLBACK_IN_PROGRESS"),
        ("Delete", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"),
        ("Delete", "ROLLBACK_IN_PROGRESS"),
        ("Delete", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"),
        ("Delete", "DELETE_IN_PROGRESS"),
    ],
)
def test_what_goes_back_or_away_does_not_ask(kind: str, status: str) -> None:
    assert pass_by(kind, status, []) == ("Guard", 0)


def test_an_endpoint_that_was_taken_away_is_not_updated() -> None:
    with pytest.raises(guarding.EndpointAway, match=r"bring it back \(`ko-reranker endpoint on`\), then deploy again"):
        pass_by("Update", "UPDATE_IN_PROGRESS", [None], away=True)
    assert pass_by("Create", "UPDATE_IN_PROGRESS", [None], away=True) == ("Guard", 0)
    assert pass_by("Update", "UPDATE_ROLLBACK_IN_PROGRESS", [], away=True) == ("Guard", 0)
    assert pass_by("Delete", "DELETE_IN_PROGRESS", [], away=True) == ("Guard", 0)


@pytest.mark.parametrize(("said", "is_away"), [('Could not find endpoint "arn:…:endpoint/e".', True), ("Rate exceeded", None)])
def test_only_an_endpoint_that_cannot_be_found_is_away(said: str, is_away: bool | None) -> None:
    class ClientError(Exception):
        pass

    def describe(EndpointName: str) -> dict[str, str]:
        raise ClientError(f"An error occurred (ValidationException) when calling the DescribeEndpoint operation: {said}")

    sagemaker = SimpleNamespace(describe_endpoint=describe, exceptions=SimpleNamespace(ClientError=ClientError))
    if is_away:
        assert guarding.away(sagemaker, "e")
    else:
        with pytest.raises(ClientError):
            guarding.away(sagemaker, "e")
    assert not guarding.away(SimpleNamespace(describe_endpoint=lambda EndpointName: {}), "e")


class NoExecution(Exception):
    pass


@pytest.mark.parametrize(
    ("item", "status", "held"),
    [
        (None, None, None),
        ({"execution": {"S": EXECUTION}}, "RUNNING", EXECUTION),
        ({"execution": {"S": EXECUTION}}, "ABORTED", None),
        ({"execution": {"S": EXECUTION}}, "SUCCEEDED", None),
        ({"execution": {"S": EXECUTION}}, None, None),  # its state machine is gone, or history is over
    ],
)
def test_only_a_running_execution_holds_the_lock(item: Any, status: str | None, held: str | None) -> None:
    def describe(executionArn: str) -> dict[str, str]:
        assert executionArn == EXECUTION
        if status is None:
            raise NoExecution
        return {"status": status}

    def get(TableName: str, Key: dict[str, Any], ConsistentRead: bool) -> dict[str, Any]:
        assert (TableName, Key, ConsistentRead) == ("releases", {"id": {"S": "lock"}}, True)
        return {"Item": item} if item else {}

    step_functions = SimpleNamespace(describe_execution=describe, exceptions=SimpleNamespace(ExecutionDoesNotExist=NoExecution))
    assert guarding.holder(SimpleNamespace(get_item=get), step_functions, "releases", "lock") == held
