"""The parameter of the live model as CloudFormation's resource: made once, never written again."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from loading import load
from moto import mock_aws

from ko_reranker.custom_resource import answer

NAME = "/ko-reranker/prod/live-model"
parameter = load("live_model", "parameter")


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield boto3.client("ssm", region_name="ap-northeast-2")


def request(kind: str, name: str = NAME, **more: Any) -> dict[str, Any]:
    return {"RequestType": kind, "ResourceProperties": {"Name": name, "Value": "none,none,none", "Description": "d"}, **more}


def value(ssm: Any, name: str = NAME) -> str | None:
    found = ssm.get_parameters(Names=[name])["Parameters"]
    return found[0]["Value"] if found else None


def test_it_is_made_once_and_no_update_writes_it(ssm: Any) -> None:
    made = parameter.keep(request("Create"), ssm)
    assert value(ssm) == "none,none,none"
    ssm.put_parameter(Name=NAME, Value="a,b,c", Overwrite=True)
    old = {"OldResourceProperties": {"Name": NAME, "Value": "x,y,z", "Description": "other"}}
    assert parameter.keep(request("Update", PhysicalResourceId=made, **old), ssm) == made
    assert value(ssm) == "a,b,c"
    parameter.keep(request("Delete", PhysicalResourceId=made), ssm)
    assert value(ssm) is None
    parameter.keep(request("Delete", PhysicalResourceId=made), ssm)  # gone already: nothing to do


def test_one_that_was_there_is_adopted_and_not_taken_away_by_a_rollback(ssm: Any) -> None:
    ssm.put_parameter(Name=NAME, Value="a,b,c", Type="StringList")
    found = parameter.keep(request("Create"), ssm)
    assert value(ssm) == "a,b,c"
    parameter.keep(request("Delete", PhysicalResourceId=found), ssm)
    assert value(ssm) == "a,b,c"


def test_another_name_is_another_parameter(ssm: Any) -> None:
    made = parameter.keep(request("Create"), ssm)
    old = {"OldResourceProperties": request("Create")["ResourceProperties"]}
    other = parameter.keep(request("Update", "/other", PhysicalResourceId=made, **old), ssm)
    assert other != made
    assert value(ssm, "/other") == "none,none,none"


def test_cloudformation_hears_of_success_and_of_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Answer:
        def close(self) -> None: ...

    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: sent.append(request) or Answer())
    event = {"StackId": "s", "RequestId": "r", "LogicalResourceId": "l", "ResponseURL": "https://answer/"}
    answer(event, lambda: "id")
    answer(event, lambda: 1 / 0)
    bodies = [json.loads(request.data) for request in sent]
    assert [(body["Status"], body["PhysicalResourceId"]) for body in bodies] == [("SUCCESS", "id"), ("FAILED", "none")]
    assert bodies[1]["Reason"] == "division by zero"
    assert {request.get_method() for request in sent} == {"PUT"}
