"""Events that reached nobody: kept, counted, and told of."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge
from cdk.constructs.observed import Watch, labelled


class Undelivered(Construct):
    """The queue of what EventBridge could not hand to a rule's target within a day, kept as long as SQS keeps anything.

    An event names executions, endpoints and packages, and holds no text of anybody's.

    Attributes:
        queue: for the targets of this stack's rules.
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self.queue = sqs.Queue(
            self,
            "Default",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        acknowledge(self.queue, "SQS3", reason="It is the queue of what was not delivered, for the targets of rules.")

    def watch(self, name: str, says: str) -> Watch:
        """Return a watch that nothing lies there."""
        metric = labelled(
            "AWS/SQS",
            "ApproximateNumberOfMessagesVisible",
            {"QueueName": self.queue.queue_name},
            "Maximum",
            "events that reached nobody",
        )
        return Watch(name=name, says=says, metric=metric, above=0)
