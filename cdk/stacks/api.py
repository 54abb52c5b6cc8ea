"""The public rerank API: keys, quotas and routes in front of the endpoint."""

from __future__ import annotations

import json
import math
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge, acknowledge_managed_policy
from cdk.constructs.api_errors import add_error_responses
from cdk.constructs.api_observed import observed_api
from cdk.constructs.api_root import ApiRoot
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.rate_rule import RateRule
from cdk.constructs.wake import wake_machine
from ko_reranker.protocol.routes import ROUTES
from ko_reranker.settings import Api, Settings, Tier

# What anybody may ask without a key: the rest is the function's to route.
_OPEN_PATHS = tuple(route.path.removeprefix("/") for route in ROUTES if route.public and route.open)
_OPEN = "Whether the service runs and how the API is described is open to all; neither tells anything of anybody."
_PREFLIGHT = "Browsers ask before they send a page's request, and without its key."
_KEYS_DECIDE = "API Gateway's own keys decide, through the authorizer that takes them out of any header; there are no users."
_URL_NOTES = {
    "cloudfront": "The API at the root of a domain",
    "custom_domain": "The API at the root of your domain",
    "none": "Clients that replace the path of a base URL (LiteLLM, langchain-cohere and others) do not work with this one",
}


class ApiStack(cdk.Stack):
    """One REST API that hands every path to the rerank Lambda, so that routing and errors are ours.

    Attributes:
        observed: how requests and their function do.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, edge_acl_arn: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the HTTPS rerank API", **kwargs)
        counts = self._counts()
        rerank = PythonFunction(
            self,
            "Rerank",
            folder="rerank",
            library=("protocol", "embedded_metrics"),
            # It answers within the deadline by itself.
            timeout=cdk.Duration.seconds(math.ceil(settings.api.deadline_seconds) + 4),
            memory_mb=settings.api.memory_mb,
            environment={
                "ENDPOINT_NAME": settings.prefix,
                "METRICS_NAMESPACE": settings.name,
                "MAX_DOCUMENTS": str(settings.api.max_documents),
                "DOCUMENTS_PER_CALL": str(settings.api.documents_per_call),
                "PARALLEL_CALLS": str(settings.api.parallel_calls),
                "TIERS": json.dumps({name: _document_limits(tier) for name, tier in settings.api.tiers.items()}),
                "COUNTS_TABLE": counts.table_name,
                "DEADLINE_SECONDS": f"{settings.api.deadline_seconds:g}",
                "CORS_ORIGINS": " ".join(settings.api.cors_origins),
                "WAKE_SECONDS": str(settings.serving.wake_seconds),
                **({"WAKE_MACHINE": self._wake_machine(settings)} if settings.serving.wake_on_request else {}),
            },
        )
        rerank.allow(
            "sagemaker:InvokeEndpoint",
            on=[self.format_arn(service="sagemaker", resource="endpoint", resource_name=settings.prefix)],
        )
        rerank.allow("dynamodb:UpdateItem", on=[counts.table_arn])
        if settings.serving.wake_on_request:
            rerank.allow("states:StartExecution", on=[self._wake_machine(settings)])
        authorizer = PythonFunction(self, "Authorizer", folder="authorizer", timeout=cdk.Duration.seconds(5), memory_mb=256)
        api = self._api(settings)
        self._routes(api, rerank, authorizer, settings.api)
        add_error_responses(
            api, behind_cloudfront=settings.api.rate_rule_at_cloudfront, for_pages=bool(settings.api.cors_origins)
        )
        key = self._keys(api, settings)
        if settings.api.waf_requests_per_5_minutes and not settings.api.rate_rule_at_cloudfront:
            acl = RateRule(self, "Rate", scope_of_acl="REGIONAL", requests=settings.api.waf_requests_per_5_minutes).acl
            waf.CfnWebACLAssociation(
                self, "RateAssociation", resource_arn=api.deployment_stage.stage_arn, web_acl_arn=acl.attr_arn
            )
        self.observed = observed_api(settings, rerank, authorizer, self._access_log)
        root = ApiRoot(self, "Root", api=api, settings=settings.api, edge_acl_arn=edge_acl_arn)
        cdk.CfnOutput(self, "ApiUrl", value=root.url, description=_URL_NOTES[settings.api.root])
        cdk.CfnOutput(self, "ApiKeyId", value=key.key_id)

    def _wake_machine(self, settings: Settings) -> str:
        return self.format_arn(
            service="states",
            resource="stateMachine",
            resource_name=wake_machine(settings),
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )

    def _counts(self) -> dynamodb.Table:
        """The documents of each key in the present minute, by the key's id, and when the endpoint was last woken.

        Nothing in it is worth keeping.
        """
        counts = dynamodb.Table(
            self,
            "DocumentCounts",
            partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            time_to_live_attribute="expires",
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        acknowledge(counts, "DDB3", reason="It holds the counts of the present minute, which nobody restores.")
        return counts

    def _api(self, settings: Settings) -> apigateway.RestApi:
        self._access_log = access_log = logs.LogGroup(
            self, "AccessLog", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=settings.prefix,
            description="Reranks documents; clients of Cohere, TEI and others change only URL and key",
            **self._reach(settings.api),
            # So that the very bytes reach the function: text that isn't UTF-8 would arrive with U+FFFD in it and be ranked, and
            # gzip be broken. (https://docs.aws.amazon.com/apigateway/latest/developerguide/lambda-proxy-binary-media.html)
            binary_media_types=["*/*"],
            api_key_source_type=apigateway.ApiKeySourceType.AUTHORIZER,
            # API Gateway writes no access log before the account has a role for it, in each region. The role serves every
            # API of the account, so it outlives this stack.
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=cdk.RemovalPolicy.RETAIN,
            deploy_options=apigateway.StageOptions(
                stage_name="api",
                throttling_rate_limit=settings.api.throttle_rate,
                throttling_burst_limit=settings.api.throttle_burst,
                # Who has no key can't take more of the function than this.
                method_options={
                    method: apigateway.MethodDeploymentOptions(
                        throttling_rate_limit=settings.api.open_throttle_rate,
                        throttling_burst_limit=settings.api.open_throttle_burst,
                        metrics_enabled=True,
                    )
                    for method in _open_methods(settings.api)
                },
                access_log_destination=apigateway.LogGroupLogDestination(access_log),
                access_log_format=_access_log_format(),
                tracing_enabled=settings.recording.tracing,
                metrics_enabled=True,
            ),
        )
        acknowledge(
            api,
            "APIG2",
            reason="The rerank Lambda checks requests itself and answers in the caller's dialect; a model could do neither.",
        )
        no_text = "The access log tells who asked what; execution logs would hold headers, and with them keys."
        acknowledge(api.deployment_stage, "APIG6", reason=no_text)
        acknowledge(api.deployment_stage, "APIG3", reason="A web ACL is a setting of the stage.")
        acknowledge_managed_policy(
            api,
            "service-role/AmazonAPIGatewayPushToCloudWatchLogs",
            reason="The managed policy is what API Gateway asks for in its account settings.",
        )
        return api

    def _routes(self, api: apigateway.RestApi, rerank: PythonFunction, authorizer: PythonFunction, settings: Api) -> None:
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

        def add(resource: apigateway.IResource, method: str, *, without_key: str | None = None) -> None:
            """Add a method, protected unless there is a reason to let callers in without a key."""
            options = {"authorization_type": apigateway.AuthorizationType.NONE} if without_key else protected
            added = resource.add_method(method, integration, **options)
            acknowledge(added, "COG4", reason=_KEYS_DECIDE)
            if without_key:
                acknowledge(added, "APIG4", reason=without_key)

        opened: list[apigateway.IResource] = [api.root.add_resource(path) for path in _OPEN_PATHS]
        for resource in opened:
            for method in ("GET", "HEAD"):
                add(resource, method, without_key=_OPEN)
            add(resource, "ANY")  # other methods are told that they are wrong
        add(api.root, "ANY")
        every = api.root.add_resource("{proxy+}")
        add(every, "ANY")
        if settings.cors_origins:
            # The mock that the CDK would put here can't answer where every media type is binary.
            for resource in (api.root, every, *opened):
                add(resource, "OPTIONS", without_key=_PREFLIGHT)

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


def _document_limits(tier: Tier) -> dict[str, int | None]:
    """What the rerank function holds keys of a tier to; requests are API Gateway's to count."""
    return {"documents_per_request": tier.documents_per_request, "documents_per_minute": tier.documents_per_minute}


def _open_methods(settings: Api) -> list[str]:
    """What needs no key, as the stage names it; browsers ask OPTIONS of every path."""
    methods = [f"/{path}/{method}" for path in _OPEN_PATHS for method in ("GET", "HEAD")]
    paths = ("/", "/{proxy+}", *(f"/{path}" for path in _OPEN_PATHS)) if settings.cors_origins else ()
    return [*methods, *(f"{path}/OPTIONS" for path in paths)]


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
