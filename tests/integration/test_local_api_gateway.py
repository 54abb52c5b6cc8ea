"""The REST API of the local cloud, deployed by CloudFormation: keys from any header, permissions, errors, access log."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from local_support import Account, eventually, free_port

from local_cloud.cloud import LocalCloud

KEY = "a-key-of-twenty-characters-or-more"

AUTHORIZER = """
def handle(event, context):
    headers = {name.lower(): value for name, value in event["headers"].items()}
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    arn = event["methodArn"].split("/")[0] + "/*"
    statement = {"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": arn}
    return {
        "principalId": "client",
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "usageIdentifierKey": key or "none",
    }
"""

BACKEND = """
import json, time

class Secret(Exception):
    pass

def handle(event, context):
    if event["path"] == "/crash":
        raise Secret("the password is 1234")
    if event["path"] == "/strict" and "slow" in event["body"]:
        time.sleep(2)
    if event["path"] == "/odd":
        return {"body": {"not": "text"}}
    told = {
        "method": event["httpMethod"],
        "proxy": event["pathParameters"],
        "key": event["requestContext"]["identity"].get("apiKeyId"),
        "source": event["requestContext"]["stage"],
    }
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(told)}
"""

LOG_FORMAT = '{"status":"$context.status","key":"$context.identity.apiKeyId","error":"$context.error.message"}'
ERROR = '{"message":$context.error.messageString,"error":{"message":$context.error.messageString,"code":%d}}'


def template(name: str, authorizer: str, backend: str, without: str = "") -> dict[str, Any]:
    """An API as the project's own: authorizer, key source, proxy, gateway responses, usage plan."""

    def invocation(function: str) -> dict:
        parts = ["arn:aws:apigateway:", {"Ref": "AWS::Region"}, ":lambda:path/2015-03-31/functions/", function, "/invocations"]
        return {"Fn::Join": ["", parts]}

    def permission(function: str, *path: str | dict) -> dict:
        prefix = ["arn:aws:execute-api:", {"Ref": "AWS::Region"}, ":", {"Ref": "AWS::AccountId"}, ":", {"Ref": "Api"}]
        return {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": function,
                "Principal": "apigateway.amazonaws.com",
                "SourceArn": {"Fn::Join": ["", [*prefix, *path]]},
            },
        }

    def response(kind: str, code: int, **properties: Any) -> dict:
        return {
            "Type": "AWS::ApiGateway::GatewayResponse",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ResponseType": kind,
                "ResponseTemplates": {"application/json": ERROR % code},
                **properties,
            },
        }

    method = {
        "RestApiId": {"Ref": "Api"},
        "HttpMethod": "ANY",
        "AuthorizationType": "CUSTOM",
        "AuthorizerId": {"Ref": "Authorizer"},
        "ApiKeyRequired": True,
        "Integration": {"Type": "AWS_PROXY", "IntegrationHttpMethod": "POST", "Uri": invocation(backend)},
    }
    resources = {
        "Api": {
            "Type": "AWS::ApiGateway::RestApi",
            "Properties": {"Name": "ko-reranker-test", "ApiKeySourceType": "AUTHORIZER"},
        },
        "Proxy": {
            "Type": "AWS::ApiGateway::Resource",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ParentId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                "PathPart": "{proxy+}",
            },
        },
        "Strict": {
            "Type": "AWS::ApiGateway::Resource",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ParentId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                "PathPart": "strict",
            },
        },
        "Authorizer": {
            "Type": "AWS::ApiGateway::Authorizer",
            "Properties": {
                "Name": "keys",
                "RestApiId": {"Ref": "Api"},
                "Type": "REQUEST",
                "AuthorizerUri": invocation(authorizer),
                "AuthorizerResultTtlInSeconds": 0,
            },
        },
        "Model": {
            "Type": "AWS::ApiGateway::Model",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "Name": "Query",
                "ContentType": "application/json",
                "Schema": {"type": "object", "required": ["query"]},
            },
        },
        "Validator": {
            "Type": "AWS::ApiGateway::RequestValidator",
            "Properties": {"RestApiId": {"Ref": "Api"}, "ValidateRequestBody": True},
        },
        "ProxyMethod": {"Type": "AWS::ApiGateway::Method", "Properties": {**method, "ResourceId": {"Ref": "Proxy"}}},
        "StrictMethod": {
            "Type": "AWS::ApiGateway::Method",
            "Properties": {
                **method,
                "ResourceId": {"Ref": "Strict"},
                "HttpMethod": "POST",
                "Integration": {**method["Integration"], "TimeoutInMillis": 1000},
                "RequestValidatorId": {"Ref": "Validator"},
                "RequestModels": {"application/json": {"Ref": "Model"}},
            },
        },
        "Open": {
            "Type": "AWS::ApiGateway::Resource",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ParentId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                "PathPart": "open",
            },
        },
        "OpenMethod": {
            "Type": "AWS::ApiGateway::Method",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "ResourceId": {"Ref": "Open"},
                "HttpMethod": "GET",
                "AuthorizationType": "NONE",
                "Integration": method["Integration"],
            },
        },
        "BadKey": response("INVALID_API_KEY", 401, StatusCode="401"),
        "Throttled": response("THROTTLED", 429, ResponseParameters={"gatewayresponse.header.Retry-After": "'1'"}),
        "Broken": response("DEFAULT_5XX", 500),
        "Deployment": {
            "Type": "AWS::ApiGateway::Deployment",
            "Properties": {"RestApiId": {"Ref": "Api"}},
            "DependsOn": ["ProxyMethod", "StrictMethod", "OpenMethod", "BadKey", "Throttled", "Broken"],
        },
        "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": f"access-{name}"}},
        "Stage": {
            "Type": "AWS::ApiGateway::Stage",
            "Properties": {
                "RestApiId": {"Ref": "Api"},
                "StageName": "v",
                "DeploymentId": {"Ref": "Deployment"},
                "MethodSettings": [
                    {"ResourcePath": "/*", "HttpMethod": "*", "ThrottlingRateLimit": 200, "ThrottlingBurstLimit": 400},
                    {"ResourcePath": "/~1open", "HttpMethod": "GET", "ThrottlingRateLimit": 0.01, "ThrottlingBurstLimit": 2},
                ],
                "AccessLogSetting": {
                    "DestinationArn": {"Fn::GetAtt": ["Log", "Arn"]},
                    "Format": LOG_FORMAT,
                },
            },
        },
        "Key": {"Type": "AWS::ApiGateway::ApiKey", "Properties": {"Enabled": True, "Value": f"{KEY}-{name}"}},
        "Plan": {
            "Type": "AWS::ApiGateway::UsagePlan",
            "Properties": {
                "ApiStages": [{"ApiId": {"Ref": "Api"}, "Stage": {"Ref": "Stage"}}],
                "Throttle": {"RateLimit": 100, "BurstLimit": 100},
            },
        },
        "PlanKey": {
            "Type": "AWS::ApiGateway::UsagePlanKey",
            "Properties": {"KeyId": {"Ref": "Key"}, "KeyType": "API_KEY", "UsagePlanId": {"Ref": "Plan"}},
        },
        "ProxyPermission": permission(backend, "/*/*/*"),
        "AuthorizerPermission": permission(authorizer, "/authorizers/", {"Ref": "Authorizer"}),
    }
    outputs = {"Api": {"Value": {"Ref": "Api"}}, "KeyId": {"Value": {"Ref": "Key"}}}
    resources.pop(without, None)
    return {"Resources": resources, "Outputs": outputs}


@dataclass
class Api:
    """A deployed API."""

    account: Account
    api_id: str
    key: str
    key_id: str
    log_group: str

    def call(self, path: str = "/v2/rerank", method: str = "POST", body: bytes = b"{}", **headers: str) -> Answer:
        """Send a request to the stage."""
        settings = self.account.cloud.settings
        request = urllib.request.Request(
            f"{settings.endpoint_url}/_aws/execute-api/{self.api_id}/v{path}",
            data=body if method != "GET" else None,
            method=method,
            headers={"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}},
        )
        context = ssl.create_default_context(cafile=str(settings.ca_file))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(request, timeout=20) as response:
                return Answer(response.status, response.read().decode(), dict(response.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(), dict(error.headers))

    def access_log(self) -> list[dict]:
        """The lines of the stage's access log."""
        events = self.account.client("logs").filter_log_events(logGroupName=self.log_group)["events"]
        return [json.loads(event["message"]) for event in events]


@dataclass
class Answer:
    """A response."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with LocalCloud(tmp_path_factory.mktemp("cloud"), port=free_port(), gateway_port=free_port()) as cloud:
        yield Account(cloud)


@pytest.fixture(scope="module")
def functions(account: Account) -> tuple[str, str]:
    return account.function(AUTHORIZER), account.function(BACKEND)


def deploy(account: Account, name: str, body: dict) -> dict[str, str]:
    """Create a stack and return its outputs."""
    cloudformation = account.client("cloudformation")
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_IAM"])

    def ended() -> dict | None:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        return stack if not stack["StackStatus"].endswith("IN_PROGRESS") else None

    stack = eventually(ended, 20)
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack.get("StackStatusReason")
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def deploy_api(account: Account, name: str, functions: tuple[str, str], without: str = "") -> Api:
    """Deploy the API, without one of its resources."""
    outputs = deploy(account, name, template(name, *functions, without))
    return Api(account, outputs["Api"], f"{KEY}-{name}", outputs["KeyId"], f"access-{name}")


@pytest.fixture(scope="module")
def api(account: Account, functions: tuple[str, str]) -> Api:
    return deploy_api(account, "whole", functions)


class TestKeys:
    def test_a_bearer_token_is_the_key_and_the_function_learns_its_id(self, api: Api):
        answer = api.call(Authorization=f"Bearer {api.key}")
        assert (answer.status, answer.json["key"]) == (200, api.key_id), answer.text

    def test_the_header_of_api_gateway_works_too(self, api: Api):
        assert api.call(x_api_key=api.key).status == 200

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}])
    def test_no_key_and_a_wrong_key_are_401_with_our_body(self, api: Api, headers: dict[str, str]):
        answer = api.call(**headers)
        assert answer.status == 401
        assert answer.json == {"message": "Forbidden", "error": {"message": "Forbidden", "code": 401}}


class TestProxy:
    def test_any_method_and_path_reach_the_function(self, api: Api):
        told = api.call("/infinity/v1/models", "GET", x_api_key=api.key).json
        assert (told["method"], told["proxy"]) == ("GET", {"proxy": "infinity/v1/models"})

    def test_a_crashed_function_is_a_502_that_tells_nothing(self, api: Api):
        for path in ("/crash", "/odd"):
            answer = api.call(path, x_api_key=api.key)
            assert answer.status == 502
            assert answer.json["message"] == "Internal server error"
            assert "password" not in answer.text

    def test_a_validator_of_the_template_refuses_a_bad_body(self, api: Api):
        assert api.call("/strict", body=b'{"documents": []}', x_api_key=api.key).status == 400
        assert api.call("/strict", body=b'{"query": "q"}', x_api_key=api.key).status == 200

    def test_a_function_that_takes_too_long_is_504(self, api: Api):
        assert api.call("/strict", body=b'{"query": "slow"}', x_api_key=api.key).status == 504

    def test_a_body_too_large_for_a_function_is_413(self, api: Api):
        assert api.call(body=b'{"query": "' + b"a" * 6_300_000 + b'"}', x_api_key=api.key).status == 413

    def test_the_access_log_has_a_line_for_each_request_and_no_key(self, api: Api):
        api.call("/crash", x_api_key=api.key)
        api.call()
        log = api.access_log()
        assert {"status": "502", "key": api.key_id, "error": "Secret"} in log
        assert log[-1] == {"status": "401", "key": "-", "error": "Forbidden"}
        assert api.key not in json.dumps(log)

    def test_too_many_requests_are_429_with_retry_after(self, account: Account, api: Api):
        gateway = account.client("apigateway")
        key = gateway.create_api_key(name="slow", enabled=True)
        plan = gateway.create_usage_plan(
            name="slow", apiStages=[{"apiId": api.api_id, "stage": "v"}], throttle={"rateLimit": 0.1, "burstLimit": 2}
        )
        gateway.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
        answers = [api.call(Authorization=key["value"]) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert {name.lower(): value for name, value in answers[-1].headers.items()}["retry-after"] == "1"

    def test_a_method_has_a_throttle_of_its_own(self, api: Api):
        answers = [api.call("/open", "GET") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert {name.lower(): value for name, value in answers[-1].headers.items()}["retry-after"] == "1"
        assert api.call(x_api_key=api.key).status == 200

    def test_the_stage_has_a_throttle_for_every_method(self, account: Account, functions: tuple[str, str]):
        api = deploy_api(account, "throttled", functions)
        limits = {"rateLimit": "0.01", "burstLimit": "1"}
        changes = [{"op": "replace", "path": f"/*/*/throttling/{name}", "value": value} for name, value in limits.items()]
        account.client("apigateway").update_stage(restApiId=api.api_id, stageName="v", patchOperations=changes)
        assert [api.call(x_api_key=api.key).status for _ in range(2)] == [200, 429]


class TestPermissions:
    @pytest.mark.parametrize("permission", ["ProxyPermission", "AuthorizerPermission"])
    def test_without_permission_on_a_function_the_api_answers_500(self, account: Account, permission: str):
        own = (account.function(AUTHORIZER), account.function(BACKEND))  # permissions stay with a function
        api = deploy_api(account, f"no{permission}", own, without=permission)
        assert api.call(x_api_key=api.key).status == 500


class TestBuckets:
    def test_properties_of_the_template_arrive(self, account: Account):
        properties = {
            "BucketName": "configured",
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {
                            "SSEAlgorithm": "aws:kms",
                            "KMSMasterKeyID": {"Fn::GetAtt": ["Key", "Arn"]},
                        },
                    }
                ]
            },
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "Id": "old",
                        "Status": "Enabled",
                        "Prefix": "runs/",
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
                        "Transitions": [{"StorageClass": "INTELLIGENT_TIERING", "TransitionInDays": 1}],
                    }
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "VersioningConfiguration": {"Status": "Enabled"},
        }
        key_policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account.id}:root"}, "Action": "kms:*", "Resource": "*"}
            ],
        }
        resources = {
            "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": key_policy}},
            "Bucket": {"Type": "AWS::S3::Bucket", "Properties": properties},
        }
        out = deploy(
            account, "buckets", {"Resources": resources, "Outputs": {"Key": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}}}}
        )
        s3 = account.client("s3")
        (rule,) = s3.get_bucket_encryption(Bucket="configured")["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == out["Key"]
        (lifecycle,) = s3.get_bucket_lifecycle_configuration(Bucket="configured")["Rules"]
        assert lifecycle["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
        assert s3.get_bucket_ownership_controls(Bucket="configured")["OwnershipControls"]["Rules"]

    def test_a_role_needs_the_bucket_key(self, account: Account):
        source = """
import boto3, botocore.exceptions
def handle(event, context):
    try:
        boto3.client("s3").put_object(Bucket="configured", Key="k", Body=b"x")
        return boto3.client("s3").get_object(Bucket="configured", Key="k")["Body"].read().decode()
    except botocore.exceptions.ClientError as error:
        return str(error)
"""
        put = {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "arn:aws:s3:::configured/*"}
        use = {"Effect": "Allow", "Action": ["kms:GenerateDataKey*", "kms:Decrypt"], "Resource": "*"}
        answers = [
            json.loads(account.client("lambda").invoke(FunctionName=account.function(source, *statements))["Payload"].read())
            for statements in ((put,), (put, use))
        ]
        assert "AccessDenied" in answers[0]
        assert "kms:GenerateDataKey" in answers[0]
        assert answers[1] == "x"
