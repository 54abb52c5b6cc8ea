"""Every permission of the templates is needed: a run without it fails and says so, and with all of them it passes.

The local stage is deployed once by the real CDK command line, with an image that does no work. Each test then takes one
permission out of one stack's template, updates the stack through CloudFormation and runs what needs the permission.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from deployed_stage import free_port
from permission_cases import NOT_SHOWN, SHOWN, Run, reason
from permissions import Permission, permissions, with_other_machines, without
from stub_stage import StubStage, eventually

from ko_reranker.operations.executions import Outcome

pytestmark = pytest.mark.slow

CASES = [
    (stack, Permission(owner, action), run)
    for stack, runs in SHOWN.items()
    for run, owners in runs.items()
    for owner, actions in owners.items()
    for action in actions.split()
]
# Without it every shard fails.
TRANSLATION = Permission("TranslateRole", "s3:PutObject")
# What goes wrong in a run; where it is only told in a log of the cloud, it says so.
PROBLEMS: dict[Run, Callable[[StubStage], str]] = {
    Run.RETRAINING: lambda stub: failure(stub.retrain()),
    Run.FAILED_SHARDS: lambda stub: failure(stub.retrain()),
    Run.BY_HAND: lambda stub: failure(stub.retrain({"approval": "manual"})),
    Run.LEFTOVER: lambda stub: failure(stub.retrain(leftover=True)),
    Run.RELEASE: lambda stub: failure(stub.release()),
    Run.STALE_LOCK: lambda stub: failure(stub.release(stale_lock=True)),
    Run.EVENT: lambda stub: "" if stub.release() else "the approval starts no release",
    Run.NOTICE: lambda stub: "" if stub.notice() else "nobody hears of the failure",
    Run.CALL: lambda stub: stub.ask(),
    Run.COUNT: lambda stub: "" if stub.documents_left() else "nobody counts the documents",
    Run.AWAY: lambda stub: failure(stub.come_back()),
    Run.WAKE: lambda stub: stub.wake(),
    Run.AGE: lambda stub: stub.look_at_age(),
    Run.HOUSEKEEPING: lambda stub: stub.keep_house(),
}
# Neither EventBridge nor API Gateway tells a caller which permission is missing; the cloud's log does.
SILENT = (Run.EVENT, Run.NOTICE, Run.CALL, Run.COUNT, Run.WAKE)
# How a missing permission shows where the action is not named.
UNNAMED = {
    # HEAD requests, boto3's first one of a download, are answered without a body.
    "s3:GetObject": "An error occurred .403. when calling the HeadObject operation: Forbidden",
    "kms:Decrypt": "An error occurred .403. when calling the HeadObject operation: Forbidden|the policy of the KMS key of",
    "kms:GenerateDataKey*": "the policy of the KMS key of",
    "lambda:InvokeFunction": "API Gateway may not invoke",
    "sagemaker:InvokeEndpoint": "AccessDenied",
    "dynamodb:UpdateItem": "AccessDenied",
}


def failure(outcome: Outcome | None) -> str:
    """The cause of a failed execution; of any other one nothing."""
    return (outcome.cause or outcome.status) if outcome and outcome.status == "FAILED" else ""


# With what is asked for less often; its hours come once a year.
SETTINGS = {
    "serving.wake_on_request": "true",
    "serving.wake_seconds": "30",
    "schedule.endpoint": '{"off": "cron(0 3 1 1 ? *)", "on": "cron(0 4 1 1 ? *)"}',
    "schedule.capacity": json.dumps(
        [{"at": f"cron(0 {hour} 2 1 ? *)", "min_instances": 1, "max_instances": most} for hour, most in ((3, 1), (4, 2))]
    ),
}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubStage]:
    stub = StubStage(tmp_path_factory.mktemp("stub"), free_port(), free_port(), SETTINGS)
    with stub.cloud:
        stub.deploy()
        yield stub


def assert_all_is_well(stub: StubStage) -> None:
    stub.restore()
    retraining = stub.retrain(leftover=True)
    assert retraining.succeeded, retraining.cause
    by_hand = stub.retrain({"approval": "manual"})
    assert by_hand.succeeded, by_hand.cause
    release = stub.release(stale_lock=True)
    assert release and release.succeeded, release
    assert not stub.ask()
    assert stub.documents_left()
    assert stub.notice()
    back = stub.come_back()
    assert back.succeeded, back.cause
    assert not stub.wake()
    assert not stub.look_at_age()
    assert not stub.keep_house()


def test_with_all_permissions_everything_passes(stub: StubStage) -> None:
    assert_all_is_well(stub)


@pytest.mark.parametrize(("stack", "permission", "run"), CASES, ids=[f"{stack}: {item}" for stack, item, _ in CASES])
def test_without_one_permission_the_run_fails_and_says_so(
    stub: StubStage, stack: str, permission: Permission, run: Run
) -> None:
    template = without(stub.templates[stack], permission)
    stub.begin()
    if run is Run.CREATION:
        # Step Functions looks at these when a state machine is created or updated, not when it runs.
        assert permission.action in stub.refused_update(stack, with_other_machines(template))
        return
    if run is Run.FAILED_SHARDS:
        template = without(template, TRANSLATION)
    stub.change(stack, template)
    problem = PROBLEMS[run](stub)
    if run in (Run.AWAY, Run.WAKE):  # the next run needs an endpoint
        causes, problem = stub.causes(), problem or ""
        stub.restore()
        assert stub.switch("on").succeeded
    else:
        causes = stub.causes() if run not in SILENT else ""
    assert problem, f"nothing fails without {permission}"

    words = f"{re.escape(permission.action)}|{UNNAMED.get(permission.action, '(?!)')}"
    told = eventually(lambda: re.search(words, problem + (stub.log() if run in SILENT else causes)), 5)
    assert told, problem


def test_every_permission_is_shown_or_has_a_reason(stub: StubStage) -> None:
    there = {(stack, permission) for stack, template in stub.templates.items() for permission in permissions(template)}
    shown = {(stack, permission) for stack, permission, _ in CASES}
    assert not shown - there, "not in the templates any more"
    assert not {(stack, item) for stack, item in there - shown if not reason(item)}, "new: show that it is needed"
    assert not {(stack, item) for stack, item in shown if reason(item)}, "shown after all"
    unused = [key for key in NOT_SHOWN if not any(re.fullmatch(" ".join(key), str(item)) for _, item in there)]
    assert not unused, "reasons for nothing"


def test_with_all_permissions_back_everything_passes_again(stub: StubStage) -> None:
    assert_all_is_well(stub)
