"""The public rerank API: keys, quotas and routes in front of the endpoint."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.constructs.api_errors import add_error_responses
from cdk.constructs.api_root import ApiRoot
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.rate_rule import RateRule
from cdk.settings import Api, Settings

_URL_NOTES = {
    "cloudfront": "The API at the root of a domain",
    "custom_domain": "The API at the root of your domain",
    "none": "Clients that replace the path of a base URL (LiteLLM, langchain-cohere and others) do not work with this one",
}


class ApiStack(cdk.Stack):
    """One REST API that hands every path to the rerank Lambda, so that routing and errors are ours."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the HTTPS rerank API", **kwargs)
        rerank = PythonFunction(
            self,
            "Rerank",
            folder="rerank",
            library=("protocol",),
            # Answers within its own 24 seconds; API Gateway waits for 29.
            timeout=cdk.Duration.seconds(28),
            memory_mb=settings.api.memory_mb,
            environment={
                "ENDPOINT_NAME": settings.prefix,
                "METRICS_NAMESPACE": settings.name,
                "MAX_DOCUMENTS": str(settings.api.max_documents),
                "DOCUMENTS_PER_CALL": str(settings.api.documents_per_call),
                "PARALLEL_CALLS": str(settings.api.parallel_calls),
            },
        )
        rerank.allow(
            "sagemaker:InvokeEndpoint",
            on=[self.format_arn(service="sagemaker", resource="endpoint", resource_name=settings.prefix)],
        )
        authorizer = PythonFunction(self, "Authorizer", folder="authorizer", timeout=cdk.Duration.seconds(5), memory_mb=256)
        api = self._api(settings)
        self._routes(api, rerank, authorizer)
        add_error_responses(api)
        key = self._keys(api, settings)
        if settings.api.waf_requests_per_5_minutes:
            RateRule(
                self,
                "Rate",
                stage=api.deployment_stage,
                requests=settings.api.waf_requests_per_5_minutes,
                behind_proxy=settings.api.root == "cloudfront",
            )
        root = ApiRoot(self, "Root", api=api, settings=settings.api)
        cdk.CfnOutput(self, "ApiUrl", value=root.url, description=_URL_NOTES[settings.api.root])
        cdk.CfnOutput(self, "ApiKeyId", value=key.key_id)

    def _api(self, settings: Settings) -> apigateway.RestApi:
        access_log = logs.LogGroup(
            self, "AccessLog", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=settings.prefix,
            description="Reranks documents; clients of Cohere, TEI and others change only URL and key",
            **self._reach(settings.api),
            api_key_source_type=apigateway.ApiKeySourceType.AUTHORIZER,
            # API Gateway writes no access log before the account has a role for it, in each region. The role serves every
            # API of the account, so it outlives this stack.
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=cdk.RemovalPolicy.RETAIN,
            deploy_options=apigateway.StageOptions(
                stage_name="api",
                throttling_rate_limit=settings.api.throttle_rate,
                throttling_burst_limit=settings.api.throttle_burst,
                access_log_destination=apigateway.LogGroupLogDestination(access_log),
                access_log_format=_access_log_format(),
                tracing_enabled=True,
                metrics_enabled=True,
            ),
        )
        return api

    def _routes(self, api: apigateway.RestApi, rerank: PythonFunction, authorizer: PythonFunction) -> None:
        keys = apigateway.RequestAuthorizer(
            self,
            "Keys",
            handler=authorizer.function,
            # With caching every header that may hold a key would have to be there.
            results_cache_ttl=cdk.Duration.seconds(0),
            identity_sources=[],
        )
        timeout = cdk.Duration.seconds(29)
        integration = apigateway.LambdaIntegration(rerank.function, proxy=True, timeout=timeout, allow_test_invoke=False)
        protected = {
            "authorizer": keys,
            "authorization_type": apigateway.AuthorizationType.CUSTOM,
            "api_key_required": True,
        }
        for open_to_all in ("health", "openapi.json"):
            resource = api.root.add_resource(open_to_all)
            resource.add_method("GET", integration, authorization_type=apigateway.AuthorizationType.NONE)
            resource.add_method("ANY", integration, **protected)  # other methods are told that they are wrong
        api.root.add_method("ANY", integration, **protected)
        api.root.add_resource("{proxy+}").add_method("ANY", integration, **protected)

    def _reach(self, settings: Api) -> dict[str, Any]:
        """From where the API can be called."""
        if not settings.private:
            return {"endpoint_types": [apigateway.EndpointType.REGIONAL]}
        here = iam.PolicyStatement(
            actions=["execute-api:Invoke"],
            principals=[iam.AnyPrincipal()],
            resources=["execute-api:/*"],
            conditions={"StringEquals": {"aws:SourceVpce": list(settings.vpc_endpoint_ids)}},
        )
        endpoints = [
            ec2.InterfaceVpcEndpoint.from_interface_vpc_endpoint_attributes(self, f"Vpce{n}", vpc_endpoint_id=name, port=443)
            for n, name in enumerate(settings.vpc_endpoint_ids)
        ]
        return {
            "endpoint_configuration": apigateway.EndpointConfiguration(
                types=[apigateway.EndpointType.PRIVATE], vpc_endpoints=endpoints
            ),
            "policy": iam.PolicyDocument(statements=[here]),
        }

    def _keys(self, api: apigateway.RestApi, settings: Settings) -> apigateway.IApiKey:
        """A usage plan for each tier, and a first key on the first; further keys: ``ko-reranker keys create``."""
        key = api.add_api_key("FirstKey", api_key_name=f"{settings.prefix}-first", description="Made with the stack")
        for place, (name, tier) in enumerate(settings.api.tiers.items()):
            plan = api.add_usage_plan(
                name.title().replace("-", ""),
                name=f"{settings.prefix}-{name}",
                throttle=apigateway.ThrottleSettings(rate_limit=tier.rate_per_second, burst_limit=tier.burst),
                quota=apigateway.QuotaSettings(limit=tier.requests_per_month, period=apigateway.Period.MONTH),
            )
            plan.add_api_stage(stage=api.deployment_stage)
            if place == 0:
                plan.add_api_key(key)
        return key


def _access_log_format() -> apigateway.AccessLogFormat:
    """Who asked what and how it went, by the key's id: never the key, never a header, never text."""
    context = apigateway.AccessLogField
    return apigateway.AccessLogFormat.custom(
        json.dumps(
            {
                "request_id": context.context_request_id(),
                "time": context.context_request_time(),
                "method": context.context_http_method(),
                "path": context.context_path(),
                "status": context.context_status(),
                "api_key_id": context.context_identity_api_key_id(),
                "ip": context.context_identity_source_ip(),
                "milliseconds": context.context_response_latency(),
                "bytes": context.context_response_length(),
                "error": context.context_error_response_type(),
            }
        )
    )
