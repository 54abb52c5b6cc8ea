"""The one thing that the rerank function may start: the endpoint's coming back."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.states import LoggedStateMachine, call
from ko_reranker.settings import Settings


def wake_machine(settings: Settings) -> str:
    """The state machine's name: its ARN, taken from the resource, would tie the API's stack to the endpoint's."""
    return f"{settings.prefix}-wake"


class Wake(Construct):
    """A state machine that starts the deploy state machine with one input and no other, whatever its own is.

    Who may start the deploy state machine itself may release any approved model, and take the endpoint away.

    Args:
        machine: the deploy state machine.

    Attributes:
        arn: of the state machine.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, machine: sfn.IStateMachine) -> None:
        super().__init__(scope, construct_id)
        start = call(
            self,
            "Bring the endpoint back",
            "states:startExecution",
            {
                "StateMachineArn": machine.state_machine_arn,
                "Name.$": "$$.Execution.Name",
                "Input": {"endpoint": "on"},
            },
            comment="Whose own executions tell how that goes",
            retry_on=["States.TaskFailed"],
        )
        wake = LoggedStateMachine(
            self,
            "Machine",
            name=wake_machine(settings),
            comment="Bring the endpoint back because somebody asks it",
            definition=sfn.Chain.start(start),
            timeout=cdk.Duration.minutes(5),
            tracing=settings.recording.tracing,
        )
        wake.allow("states:StartExecution", on=[machine.state_machine_arn])
        self.arn = wake.machine.state_machine_arn
