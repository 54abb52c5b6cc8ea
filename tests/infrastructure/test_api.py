"""What users rely on in front of the rerank API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import assertions
from synthesis import CONTEXT, Templates, synthesise

from cdk.constructs import python_function
from ko_reranker.settings import SettingsError, load_settings


def api(**overrides: str) -> assertions.Template:
    return assertions.Template.from_json(synthesise("prod", **{f"api.{k}": v for k, v in overrides.items()})[0]["api"])


def properties(template: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item["Properties"] for item in template["Resources"].values() if item["Type"] == kind]


def test_every_method_but_health_and_the_description_needs_a_key(prod: Templates) -> None:
    resources = prod["api"]["Resources"]
    for name, item in resources.items():
        if item["Type"] == "AWS::ApiGateway::Method":
            is_open = ("health" in name or "openapi" in name) and item["Properties"]["HttpMethod"] in {"GET", "HEAD"}
            assert bool(item["Properties"].get("ApiKeyRequired")) is not is_open
            assert item["Properties"]["Integration"]["TimeoutInMillis"] == 29_000
    [authorizer] = properties(prod["api"], "AWS::ApiGateway::Authorizer")
    assert (authorizer["Type"], authorizer["AuthorizerResultTtlInSeconds"]) == ("REQUEST", 0)
    assert not authorizer.get("IdentitySource")
    [rest_api] = properties(prod["api"], "AWS::ApiGateway::RestApi")
    assert rest_api["ApiKeySourceType"] == "AUTHORIZER"


def test_the_function_is_sent_the_very_bytes_of_a_body(prod: Templates) -> None:
    [rest_api] = properties(prod["api"], "AWS::ApiGateway::RestApi")
    assert rest_api["BinaryMediaTypes"] == ["*/*"]


def test_web_pages_are_let_in_by_a_setting_only(prod: Templates) -> None:
    def preflights(template: dict[str, Any]) -> list[dict[str, Any]]:
        return [item for item in properties(template, "AWS::ApiGateway::Method") if item["HttpMethod"] == "OPTIONS"]

    assert not preflights(prod["api"])
    for item in properties(prod["api"], "AWS::ApiGateway::GatewayResponse"):
        assert not any("Access-Control" in name for name in item.get("ResponseParameters", {}))
    template = api(cors_origins='["https://app.example.com"]').to_json()
    assert len(preflights(template)) == 4
    [stage] = properties(template, "AWS::ApiGateway::Stage")
    throttled = {item["ResourcePath"] for item in stage["MethodSettings"] if item["HttpMethod"] == "OPTIONS"}
    assert throttled == {"/", "/~1{proxy+}", "/~1health", "/~1openapi.json"}
    assert not any(item.get("ApiKeyRequired") for item in preflights(template))
    for item in properties(template, "AWS::ApiGateway::GatewayResponse"):
        assert item["ResponseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"] == "'*'"
    environments = [f.get("Environment", {"Variables": {}})["Variables"] for f in properties(template, "AWS::Lambda::Function")]
    assert [v["CORS_ORIGINS"] for v in environments if "CORS_ORIGINS" in v] == ["https://app.example.com"]


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "https://*.example.com"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="cors_origins"):
        load_settings({**CONTEXT, "stage": "prod", "api.cors_origins": f'["{origin}"]'})


def test_a_usage_plan_for_each_tier(prod: Templates) -> None:
    plans = {plan["UsagePlanName"]: plan for plan in properties(prod["api"], "AWS::ApiGateway::UsagePlan")}
    tiers = CONTEXT["settings"]["defaults"]["api"]["tiers"]
    assert {name.removeprefix("ko-reranker-prod-") for name in plans} == set(tiers)
    standard = plans["ko-reranker-prod-standard"]
    assert standard["Throttle"] == {"RateLimit": 20, "BurstLimit": 40}
    assert standard["Quota"] == {"Limit": 1_000_000, "Period": "MONTH"}


def test_what_needs_no_key_has_a_small_throttle_of_its_own(prod: Templates) -> None:
    [stage] = properties(prod["api"], "AWS::ApiGateway::Stage")
    limits = {
        (item["ResourcePath"], item["HttpMethod"]): (item["ThrottlingRateLimit"], item["ThrottlingBurstLimit"])
        for item in stage["MethodSettings"]
    }
    opened = {(path, method) for path in ("/~1health", "/~1openapi.json") for method in ("GET", "HEAD")}
    assert limits == {("/*", "*"): (100, 200), **dict.fromkeys(opened, (5, 10))}
    keyless = [
        item["Properties"]
        for item in prod["api"]["Resources"].values()
        if item["Type"] == "AWS::ApiGateway::Method" and not item["Properties"].get("ApiKeyRequired")
    ]
    assert len(keyless) == len(limits) - 1


def test_the_rerank_function_counts_documents_in_a_table_that_forgets(prod: Templates) -> None:
    [table] = properties(prod["api"], "AWS::DynamoDB::Table")
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    [variables] = [
        item["Environment"]["Variables"]
        for item in properties(prod["api"], "AWS::Lambda::Function")
        if "ENDPOINT_NAME" in item.get("Environment", {}).get("Variables", {})
    ]
    tiers = json.loads(variables["TIERS"])
    assert list(tiers) == ["standard", "trial"]
    assert tiers["trial"] == {"documents_per_request": 500, "documents_per_minute": 3000}
    name = variables["COUNTS_TABLE"]["Ref"]
    statements = [s for policy in properties(prod["api"], "AWS::IAM::Policy") for s in policy["PolicyDocument"]["Statement"]]
    [allowed] = [s for s in statements if "dynamodb" in json.dumps(s["Action"])]
    assert (allowed["Action"], allowed["Resource"]) == ("dynamodb:UpdateItem", {"Fn::GetAtt": [name, "Arn"]})


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
    assert not [item for item in prod if item == "edge"], "a stack in us-east-1 for nothing"
    # Without CloudFront callers connect to the API: the rule stands there.
    template = api(waf_requests_per_5_minutes="2000", root="none")
    template.has_resource_properties("AWS::WAFv2::WebACL", {"Scope": "REGIONAL", "Rules": [RATE]})
    template.resource_count_is("AWS::WAFv2::WebACLAssociation", 1)
    template.resource_count_is("AWS::SecretsManager::Secret", 0)


# By the address of the connection, never by a header, which callers write themselves.
RATE = assertions.Match.object_like(
    {
        "Statement": {"RateBasedStatement": {"Limit": 2000, "AggregateKeyType": "IP", "EvaluationWindowSec": 300}},
        "Action": {"Block": {"CustomResponse": assertions.Match.object_like({"ResponseCode": 429})}},
    }
)


@pytest.fixture(scope="module")
def rated() -> Templates:
    """Prod with a rate rule at CloudFront, its key rotated twice."""
    given = {"api.waf_requests_per_5_minutes": "2000", "api.origin_key": "3"}
    return synthesise("prod", **given)[0]


def test_the_rate_rule_stands_where_callers_connect_to_cloudfront(rated: Templates) -> None:
    edge = assertions.Template.from_json(rated["edge"])
    edge.has_resource_properties("AWS::WAFv2::WebACL", {"Scope": "CLOUDFRONT", "Rules": [RATE]})
    [distribution] = properties(rated["api"], "AWS::CloudFront::Distribution")
    assert "edge" in json.dumps(distribution["DistributionConfig"]["WebACLId"])
    assert "FORWARDED_IP" not in json.dumps(rated)


def test_the_api_takes_requests_from_cloudfront_alone_by_a_header_that_is_in_no_template(rated: Templates) -> None:
    [distribution] = properties(rated["api"], "AWS::CloudFront::Distribution")
    [sent] = distribution["DistributionConfig"]["Origins"][0]["OriginCustomHeaders"]
    [acl] = properties(rated["api"], "AWS::WAFv2::WebACL")
    [rule] = acl["Rules"]
    accepted = rule["Statement"]["NotStatement"]["Statement"]["OrStatement"]["Statements"]
    matches = [item["ByteMatchStatement"] for item in accepted]
    assert [item["FieldToMatch"] for item in matches] == [{"SingleHeader": {"Name": sent["HeaderName"]}}] * 2
    assert all(item["PositionalConstraint"] == "EXACTLY" for item in matches)
    # The value that is sent and the one before, so that no edge is refused while a new one spreads.
    values = [json.dumps(item["SearchString"]) for item in matches]
    assert values[0] == json.dumps(sent["HeaderValue"]) and values[0] != values[1]
    assert all("{{resolve:secretsmanager:" in value for value in values)
    assert "resolve:secretsmanager" not in json.dumps(rated["api"]["Outputs"])
    # The whole stage of the API: open paths, too. And the check is there before CloudFront sends a new value.
    [association] = properties(rated["api"], "AWS::WAFv2::WebACLAssociation")
    assert "/stages/" in json.dumps(association["ResourceArn"])
    [resource] = [item for item in rated["api"]["Resources"].values() if item["Type"] == "AWS::CloudFront::Distribution"]
    acls = [name for name, item in rated["api"]["Resources"].items() if item["Type"] == "AWS::WAFv2::WebACL"]
    assert set(acls) <= set(resource["DependsOn"])


def test_rotating_keeps_the_secret_that_was_sent_until_then(rated: Templates) -> None:
    secrets = {name for name, item in rated["api"]["Resources"].items() if item["Type"] == "AWS::SecretsManager::Secret"}
    assert {name for name in secrets if "OriginKey3" in name} and {name for name in secrets if "OriginKey2" in name}
    assert len(secrets) == 2


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
        ({"api.tiers.trial.documents_per_minute": "499"}, "documents_per_request"),
        ({"api.tiers.trial.documents_per_request": "null"}, "documents_per_request"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings({**CONTEXT, "stage": "prod", **wrong})


def test_byte_code_is_shipped_only_where_it_is_this_pythons(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("VALUE = 1\n")
    python_function.add_byte_code(tmp_path, (3, 0))
    assert not list(tmp_path.rglob("*.pyc"))
    python_function.add_byte_code(tmp_path, python_function.RUNTIME_VERSION)
    [compiled] = tmp_path.rglob("*.pyc")
    assert compiled.read_bytes()[4] == 1, "hash-based, and not checked against the source"
