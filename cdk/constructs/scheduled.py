"""Executions that begin by the clock, in the time zone of who runs the stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.permissions import allow


class ScheduledExecutions(Construct):
    """Starts a state machine by schedules.

    Args:
        machine: what is started.
        time_zone: of the times.
        undelivered: where a start goes that Step Functions does not take.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, machine: sfn.IStateMachine, time_zone: str, undelivered: sqs.IQueue
    ) -> None:
        super().__init__(scope, construct_id)
        self._machine, self._time_zone, self._undelivered = machine, time_zone, undelivered
        self._role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("scheduler.amazonaws.com"))
        allow(self._role, "states:StartExecution", on=[machine.state_machine_arn])
        allow(self._role, "sqs:SendMessage", on=[undelivered.queue_arn])

    def start(self, construct_id: str, *, at: str, with_input: Mapping[str, Any], description: str) -> None:
        """Add a schedule.

        Args:
            at: ``cron(…)`` or ``rate(…)``.
            with_input: the executions' input.
        """
        properties = scheduler.CfnSchedule
        schedule = properties(
            self,
            construct_id,
            description=description,
            schedule_expression=at,
            schedule_expression_timezone=self._time_zone,
            flexible_time_window=properties.FlexibleTimeWindowProperty(mode="OFF"),
            target=properties.TargetProperty(
                arn=self._machine.state_machine_arn,
                role_arn=self._role.role_arn,
                input=json.dumps(with_input, ensure_ascii=False),
                dead_letter_config=properties.DeadLetterConfigProperty(arn=self._undelivered.queue_arn),
            ),
        )
        # The scheduler looks at what the role may do when the schedule is made.
        schedule.node.add_dependency(self._role)
