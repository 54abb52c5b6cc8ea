"""Web ACLs: one that counts requests by address, and one that lets CloudFront alone through to the API behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from ko_reranker.protocol import ProtocolError

# CloudFront puts this header onto what it sends to the API, over whatever a caller has put there.
ORIGIN_HEADER = "x-ko-reranker-origin"
# What a log of requests must not tell: where callers put their keys (lambda/authorizer/api_keys.py), and that header.
SECRET_HEADERS = ("authorization", "x-api-key", "api-key", ORIGIN_HEADER)

TOO_MANY = ProtocolError(429, "too many requests from this address", headers={"Retry-After": "60"})
PAST_CLOUDFRONT = ProtocolError(403, "this is not the address of the API: its stack's output ApiUrl is")


class RateRule(Construct):
    """A web ACL that answers 429 to an address that asks too often, until it calms down.

    Keys have their own limits; this bounds callers without one. It counts the address of the connection, which nobody can
    write: it has to stand where callers connect to, at CloudFront where that is in front, else at the API.

    Args:
        scope_of_acl: ``CLOUDFRONT`` (in us-east-1 only) or ``REGIONAL``.
        requests: of one address in five minutes.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, scope_of_acl: Literal["CLOUDFRONT", "REGIONAL"], requests: int
    ) -> None:
        super().__init__(scope, construct_id)
        rate = waf.CfnWebACL.RateBasedStatementProperty(limit=requests, evaluation_window_sec=300, aggregate_key_type="IP")
        self.acl = _acl(self, scope_of_acl, "rate", waf.CfnWebACL.StatementProperty(rate_based_statement=rate), TOO_MANY)


class OriginCheck(Construct):
    """A web ACL in front of the API that refuses what has not come through CloudFront, on every path.

    A resource policy can't see headers, and the authorizer is not asked on open paths; this is.

    Args:
        accepted: the values of the header that are let through, the present one and the one before it.
    """

    def __init__(self, scope: Construct, construct_id: str, *, accepted: Sequence[str]) -> None:
        super().__init__(scope, construct_id)
        matches = [
            waf.CfnWebACL.StatementProperty(
                byte_match_statement=waf.CfnWebACL.ByteMatchStatementProperty(
                    field_to_match=waf.CfnWebACL.FieldToMatchProperty(single_header={"Name": ORIGIN_HEADER}),
                    positional_constraint="EXACTLY",
                    search_string=value,
                    text_transformations=[waf.CfnWebACL.TextTransformationProperty(priority=0, type="NONE")],
                )
            )
            for value in accepted
        ]
        one = waf.CfnWebACL.StatementProperty(or_statement=waf.CfnWebACL.OrStatementProperty(statements=matches))
        known = one if len(matches) > 1 else matches[0]
        other = waf.CfnWebACL.StatementProperty(not_statement=waf.CfnWebACL.NotStatementProperty(statement=known))
        self.acl = _acl(self, "REGIONAL", "not-cloudfront", other, PAST_CLOUDFRONT)


def _acl(
    scope: Construct, scope_of_acl: str, name: str, statement: waf.CfnWebACL.StatementProperty, refusal: ProtocolError
) -> waf.CfnWebACL:
    """A web ACL that lets everything through but what one statement finds, which gets the API's own kind of error."""
    response: dict[str, Any] = {"customResponseBodyKey": name, "responseCode": refusal.status}
    if refusal.headers:
        response["responseHeaders"] = [{"name": key, "value": value} for key, value in refusal.headers.items()]
    acl = waf.CfnWebACL(
        scope,
        "Acl",
        scope=scope_of_acl,
        default_action=waf.CfnWebACL.DefaultActionProperty(allow={}),
        visibility_config=_visibility("all"),
        custom_response_bodies={
            name: waf.CfnWebACL.CustomResponseBodyProperty(content=json.dumps(refusal.body()), content_type="APPLICATION_JSON")
        },
        rules=[
            waf.CfnWebACL.RuleProperty(
                name=name,
                priority=0,
                action=waf.CfnWebACL.RuleActionProperty(block={"customResponse": response}),
                statement=statement,
                visibility_config=_visibility(name),
            )
        ],
    )
    _log_refusals(scope, acl, name)
    return acl


def _log_refusals(scope: Construct, acl: waf.CfnWebACL, name: str) -> None:
    """Keep who was refused, with which path and headers, for three months; who was let through stands in the access log."""
    stack = cdk.Stack.of(scope)
    group = logs.LogGroup(
        scope,
        "Refusals",
        log_group_name=f"aws-waf-logs-{stack.stack_name}-{name}",  # WAF writes to groups of this prefix only
        retention=logs.RetentionDays.THREE_MONTHS,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    logging = waf.CfnLoggingConfiguration(
        scope,
        "Logging",
        resource_arn=acl.attr_arn,
        # Without the ":*" that the group's own attribute ends with.
        log_destination_configs=[
            stack.format_arn(
                service="logs",
                resource="log-group",
                resource_name=f"aws-waf-logs-{stack.stack_name}-{name}",
                arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
            )
        ],
        redacted_fields=[
            waf.CfnLoggingConfiguration.FieldToMatchProperty(single_header={"Name": header}) for header in SECRET_HEADERS
        ],
        # In CloudFormation's spelling: to the CDK this is JSON, which it hands on as it is.
        logging_filter={
            "DefaultBehavior": "DROP",
            "Filters": [
                {
                    "Behavior": "KEEP",
                    "Requirement": "MEETS_ALL",
                    "Conditions": [{"ActionCondition": {"Action": "BLOCK"}}],
                }
            ],
        },
    )
    logging.node.add_dependency(group)


def _visibility(name: str) -> waf.CfnWebACL.VisibilityConfigProperty:
    return waf.CfnWebACL.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True,
        metric_name=name,
        sampled_requests_enabled=False,  # samples would hold headers, and with them keys
    )
