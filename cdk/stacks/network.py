"""The network of a stage that has one of its own, or a place of its own in one that there is."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from constructs import Construct

from cdk.constructs.network import Vpc
from ko_reranker.settings import Settings


class NetworkStack(cdk.Stack):
    """What everything that computes runs in; there only where ``network.vpc`` asks for it.

    Attributes:
        vpc: the subnets and the security group.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the VPC of functions, jobs and endpoint", **kwargs)
        self.vpc = Vpc(self, "Network", settings=settings.network)
