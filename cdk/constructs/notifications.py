"""Who hears when an execution stops."""

from __future__ import annotations

from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.constructs.stores import NoticeTopic


def notify_about_failures(scope: Construct, topic: NoticeTopic, state_machine_arn: str, undelivered: sqs.IQueue) -> None:
    """Publish failed, timed-out and aborted executions; the last two never reach a Catch.

    Args:
        undelivered: where notices go that the topic does not take.
    """
    rule = events.Rule(
        scope,
        "ExecutionStopped",
        description="An execution failed, timed out or was aborted",
        event_pattern=events.EventPattern(
            source=["aws.states"],
            detail_type=["Step Functions Execution Status Change"],
            detail={"stateMachineArn": [state_machine_arn], "status": ["FAILED", "TIMED_OUT", "ABORTED"]},
        ),
    )
    field = events.EventField.from_path
    name, status, cause, arn = (field(f"$.detail.{key}") for key in ("name", "status", "cause", "executionArn"))
    rule.add_target(
        targets.SnsTopic(
            topic.topic,
            message=events.RuleTargetInput.from_text(f"{name} {status}: {cause} ({arn})"),
            dead_letter_queue=undelivered,
        )
    )
