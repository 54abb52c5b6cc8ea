"""What a stage's stacks look like before they are destroyed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import boto3
import pytest
from botocore.stub import Stubber

from ko_reranker.operations import destroying
from ko_reranker.operations.stage import Stage


@pytest.fixture
def cloudformation() -> Iterator[Stubber]:
    session = boto3.session.Session("testing", "testing", region_name="ap-northeast-2")
    with Stubber(session.client("cloudformation")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def test_a_stack_that_is_only_a_change_set_goes_too(cloudformation: Stubber) -> None:
    review = {"StackName": "ko-reranker-local-api", "StackStatus": "REVIEW_IN_PROGRESS", "CreationTime": datetime.now(UTC)}
    for key in destroying.ORDER:
        name = f"ko-reranker-local-{key}"
        if name == review["StackName"]:
            cloudformation.add_response("describe_stacks", {"Stacks": [review]}, {"StackName": name})
        elif key != "edge":  # the local cloud has none
            cloudformation.add_client_error("describe_stacks", "ValidationError", expected_params={"StackName": name})
    stage = Stage("local", "ko-reranker-local", "ap-northeast-2", lambda service: cloudformation.client)
    [stack] = destroying.plan(stage).stacks
    assert (stack.name, stack.buckets, stack.kept) == ("ko-reranker-local-api", (), ())
