"""What users rely on in front of the rerank API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import assertions
from synthesis import CONTEXT, Templates, synthesise

from cdk.constructs import python_function
from cdk.settings import SettingsError, load_settings


def api(**overrides: str) -> assertions.Template:
    return assertions.Template.from_json(synthesise("prod", **{f"api.{k}": v for k, v in overrides.items()})[0]["api"])


def properties(template: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item["Properties"] for item in template["Resources"].values() if item["Type"] == kind]


def test_every_method_but_health_and_the_description_needs_a_key(prod: Templates) -> None:
    resources = prod["api"]["Resources"]
    for name, item in resources.items():
        if item["Type"] == "AWS::ApiGateway::Method":
            is_open = ("health" in name or "openapi" in name) and item["Properties"]["HttpMethod"] == "GET"
            assert bool(item["Properties"].get("ApiKeyRequired")) is not is_open
            assert item["Properties"]["Integration"]["TimeoutInMillis"] == 29_000
    [authorizer] = properties(prod["api"], "AWS::ApiGateway::Authorizer")
    assert (authorizer["Type"], authorizer["AuthorizerResultTtlInSeconds"]) == ("REQUEST", 0)
    assert not authorizer.get("IdentitySource")
    [rest_api] = properties(prod["api"], "AWS::ApiGateway::RestApi")
    assert rest_api["ApiKeySourceType"] == "AUTHORIZER"


def test_a_usage_plan_for_each_tier(prod: Templates) -> None:
    plans = {plan["UsagePlanName"]: plan for plan in properties(prod["api"], "AWS::ApiGateway::UsagePlan")}
    tiers = CONTEXT["settings"]["defaults"]["api"]["tiers"]
    assert {name.removeprefix("ko-reranker-prod-") for name in plans} == set(tiers)
    standard = plans["ko-reranker-prod-standard"]
    assert standard["Throttle"] == {"RateLimit": 20, "BurstLimit": 40}
    assert standard["Quota"] == {"Limit": 1_000_000, "Period": "MONTH"}


def test_every_gateway_error_speaks_the_superset(prod: Templates) -> None:
    responses = {item["ResponseType"]: item for item in properties(prod["api"], "AWS::ApiGateway::GatewayResponse")}
    assert responses["INVALID_API_KEY"]["StatusCode"] == "401"
    for item in responses.values():
        body = json.loads(item["ResponseTemplates"]["application/json"])
        assert body["message"] == body["detail"] == body["error"]["message"]
        assert str(body["error"]["code"]) == item["StatusCode"]
        waits = any("Retry-After" in name for name in item.get("ResponseParameters", {}))
        assert waits is (item["StatusCode"] == "429")
        assert item["StatusCode"] not in ("503", "504")


def test_the_access_log_has_no_header_and_no_key(prod: Templates) -> None:
    [stage] = properties(prod["api"], "AWS::ApiGateway::Stage")
    fields = json.loads(stage["AccessLogSetting"]["Format"]).values()
    assert "$context.identity.apiKeyId" in fields
    assert not [field for field in fields if field == "$context.identity.apiKey" or "header" in field.lower()]


def test_cloudfront_puts_the_api_at_a_root_path_and_hands_everything_on(prod: Templates) -> None:
    [distribution] = properties(prod["api"], "AWS::CloudFront::Distribution")
    config = distribution["DistributionConfig"]
    assert config["Origins"][0]["OriginPath"]
    behaviour = config["DefaultCacheBehavior"]
    assert behaviour["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"  # CachingDisabled
    assert behaviour["OriginRequestPolicyId"] == "b689b0a8-53d0-40ab-baf2-68738e2966ac"  # AllViewerExceptHostHeader
    assert "POST" in behaviour["AllowedMethods"]
    kept = {item["ErrorCode"]: item["ErrorCachingMinTTL"] for item in config["CustomErrorResponses"]}
    assert kept[403] == kept[404] == kept[500] == kept[503] == 0, "an error of one caller is another's answer"


def test_a_domain_of_ones_own() -> None:
    arn = "arn:aws:acm:ap-northeast-2:111122223333:certificate/x"
    given = {"domain_name": "rerank.example.com", "certificate_arn": arn, "hosted_zone_id": "Z1"}
    template = api(root="custom_domain", **given)
    template.has_resource_properties("AWS::ApiGateway::DomainName", {"DomainName": "rerank.example.com"})
    template.has_resource_properties("AWS::Route53::RecordSet", {"Name": "rerank.example.com."})
    template.resource_count_is("AWS::CloudFront::Distribution", 0)


def test_a_private_api_is_reached_from_its_vpc_endpoints_only() -> None:
    template = api(root="none", private="true", vpc_endpoint_ids='["vpce-1"]')
    template.has_resource_properties(
        "AWS::ApiGateway::RestApi",
        {
            "EndpointConfiguration": {"Types": ["PRIVATE"], "VpcEndpointIds": ["vpce-1"]},
            "Policy": {
                "Statement": [assertions.Match.object_like({"Condition": {"StringEquals": {"aws:SourceVpce": ["vpce-1"]}}})]
            },
        },
    )


def test_a_web_acl_is_a_setting(prod: Templates) -> None:
    assert not properties(prod["api"], "AWS::WAFv2::WebACL")
    template = api(waf_requests_per_5_minutes="2000")
    rate = assertions.Match.object_like({"Limit": 2000, "AggregateKeyType": "FORWARDED_IP"})
    template.has_resource_properties(
        "AWS::WAFv2::WebACL",
        {"Rules": [assertions.Match.object_like({"Statement": {"RateBasedStatement": rate}})]},
    )
    template.resource_count_is("AWS::WAFv2::WebACLAssociation", 1)


def test_the_local_stage_has_neither_cloudfront_nor_a_web_acl(local: Templates) -> None:
    kinds = {item["Type"] for item in local["api"]["Resources"].values()}
    assert not [kind for kind in kinds if "CloudFront" in kind or "WAF" in kind]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"api.root": "custom_domain"}, "domain_name"),
        ({"api.private": "true"}, "root none"),
        ({"api.private": "true", "api.root": "none"}, "vpc_endpoint_ids"),
        ({"api.tiers": "{}"}, "tiers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings({**CONTEXT, "stage": "prod", **wrong})


def test_byte_code_is_shipped_only_where_it_is_this_pythons(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("VALUE = 1\n")
    python_function._compile(tmp_path, (3, 0))
    assert not list(tmp_path.rglob("*.pyc"))
    python_function._compile(tmp_path, python_function._RUNTIME_VERSION)
    [compiled] = tmp_path.rglob("*.pyc")
    assert compiled.read_bytes()[4] == 1, "hash-based, and not checked against the source"
