"""A web ACL with one rule: an address that asks too often is blocked until it calms down."""

from __future__ import annotations

from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_wafv2 as waf
from constructs import Construct


class RateRule(Construct):
    """Bounds requests per address; keys have their own limits, this is for callers without one.

    Args:
        stage: of the API.
        requests: of one address in five minutes.
        behind_proxy: whether CloudFront stands in front, so that the caller's address is in a header.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: apigateway.Stage, requests: int, behind_proxy: bool
    ) -> None:
        super().__init__(scope, construct_id)
        forwarded = waf.CfnWebACL.ForwardedIPConfigurationProperty(header_name="X-Forwarded-For", fallback_behavior="MATCH")
        rate = waf.CfnWebACL.RateBasedStatementProperty(
            limit=requests,
            evaluation_window_sec=300,
            aggregate_key_type="FORWARDED_IP" if behind_proxy else "IP",
            forwarded_ip_config=forwarded if behind_proxy else None,
        )
        acl = waf.CfnWebACL(
            self,
            "Acl",
            scope="REGIONAL",
            default_action=waf.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=_visibility("all"),
            rules=[
                waf.CfnWebACL.RuleProperty(
                    name="rate",
                    priority=0,
                    action=waf.CfnWebACL.RuleActionProperty(block={}),
                    statement=waf.CfnWebACL.StatementProperty(rate_based_statement=rate),
                    visibility_config=_visibility("rate"),
                )
            ],
        )
        waf.CfnWebACLAssociation(self, "Association", resource_arn=stage.stage_arn, web_acl_arn=acl.attr_arn)


def _visibility(name: str) -> waf.CfnWebACL.VisibilityConfigProperty:
    return waf.CfnWebACL.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True,
        metric_name=name,
        sampled_requests_enabled=False,  # samples would hold headers, and with them keys
    )
