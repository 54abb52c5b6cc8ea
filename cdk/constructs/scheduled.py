"""Executions that begin by the clock, in the time zone of who runs the stage."""

from __future__ import annotations

import json

from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.permissions import allow
from ko_reranker.settings import Schedule


class ScheduledRetraining(Construct):
    """Starts the retraining state machine by a schedule.

    Args:
        machine: what is started.
        undelivered: where a start goes that Step Functions does not take.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Schedule, machine: sfn.IStateMachine, undelivered: sqs.IQueue
    ) -> None:
        super().__init__(scope, construct_id)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("scheduler.amazonaws.com"))
        allow(role, "states:StartExecution", on=[machine.state_machine_arn])
        allow(role, "sqs:SendMessage", on=[undelivered.queue_arn])
        properties = scheduler.CfnSchedule
        schedule = properties(
            self,
            "Schedule",
            description="Begin a retraining",
            schedule_expression=settings.retraining or "",
            schedule_expression_timezone=settings.time_zone,
            flexible_time_window=properties.FlexibleTimeWindowProperty(mode="OFF"),
            target=properties.TargetProperty(
                arn=machine.state_machine_arn,
                role_arn=role.role_arn,
                input=json.dumps(settings.retraining_input, ensure_ascii=False),
                dead_letter_config=properties.DeadLetterConfigProperty(arn=undelivered.queue_arn),
            ),
        )
        # The scheduler looks at what the role may do when the schedule is made.
        schedule.node.add_dependency(role)
