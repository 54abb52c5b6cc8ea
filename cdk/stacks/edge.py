"""The web ACL of CloudFront, in the one region where those live."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from constructs import Construct

from cdk.constructs.rate_rule import RateRule
from ko_reranker.settings import Settings

REGION = "us-east-1"


class EdgeStack(cdk.Stack):
    """The rate rule where callers connect to CloudFront; there only when the rule is set and CloudFront is the root.

    Attributes:
        acl_arn: for the distribution, which another region's stack makes.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the web ACL of CloudFront", **kwargs)
        requests = settings.api.waf_requests_per_5_minutes
        assert requests is not None  # noqa: S101 - there is no such stack without it
        self.acl_arn = RateRule(self, "Rate", scope_of_acl="CLOUDFRONT", requests=requests).acl.attr_arn
