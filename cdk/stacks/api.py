"""The public rerank API: keys, quotas and routes in front of the endpoint."""

from __future__ import annotations

import json

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.constructs.python_function import PythonFunction
from cdk.settings import Settings


class ApiStack(cdk.Stack):
    """One REST API that hands every path to the rerank Lambda, so that routing and errors are ours."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: the HTTPS rerank API", **kwargs)
        rerank = PythonFunction(
            self,
            "Rerank",
            folder="rerank",
            library=("protocol",),
            timeout=cdk.Duration.seconds(29),
            memory_mb=1024,
            environment={"ENDPOINT_NAME": settings.prefix, "METRICS_NAMESPACE": settings.name},
        )
        rerank.allow(
            "sagemaker:InvokeEndpoint",
            on=[self.format_arn(service="sagemaker", resource="endpoint", resource_name=settings.prefix)],
        )
        authorizer = PythonFunction(self, "Authorizer", folder="authorizer", timeout=cdk.Duration.seconds(5), memory_mb=256)
        api = self._api(settings)
        self._routes(api, rerank, authorizer)
        self._errors(api)
        key = self._keys(api, settings)
        cdk.CfnOutput(self, "ApiUrl", value=api.url)
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
            endpoint_types=[apigateway.EndpointType.REGIONAL],
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
        integration = apigateway.LambdaIntegration(rerank.function, proxy=True)
        open_health = api.root.add_resource("health")
        open_health.add_method("GET", integration, authorization_type=apigateway.AuthorizationType.NONE)
        protected = {
            "authorizer": keys,
            "authorization_type": apigateway.AuthorizationType.CUSTOM,
            "api_key_required": True,
        }
        api.root.add_method("ANY", integration, **protected)
        api.root.add_resource("{proxy+}").add_method("ANY", integration, **protected)

    def _errors(self, api: apigateway.RestApi) -> None:
        """API Gateway's own errors carry the fields that clients read, as the Lambda's do."""
        kinds = apigateway.ResponseType
        for name, kind, status, message, error_type, headers in (
            ("InvalidKey", kinds.INVALID_API_KEY, "401", "unknown API key", "authentication", {}),
            ("Unauthorized", kinds.UNAUTHORIZED, "401", "no API key: send Authorization: Bearer KEY", "authentication", {}),
            ("AccessDenied", kinds.ACCESS_DENIED, "403", "this key is not allowed here", "permission", {}),
            ("Throttled", kinds.THROTTLED, "429", "too many requests for this key", "rate_limit", {"Retry-After": "'1'"}),
            (
                "Quota",
                kinds.QUOTA_EXCEEDED,
                "429",
                "the month's quota of this key is used up",
                "quota",
                {"Retry-After": "'3600'"},
            ),
            ("TooLarge", kinds.REQUEST_TOO_LARGE, "413", "the body is over the limit of 10 MB", "too_large", {}),
            ("NoRoute", kinds.MISSING_AUTHENTICATION_TOKEN, "404", "no such path", "not_found", {}),
            ("Timeout", kinds.INTEGRATION_TIMEOUT, "429", "the model is busy, try again", "busy", {"Retry-After": "'5'"}),
            ("Client", kinds.DEFAULT_4_XX, None, "the request is not valid", "invalid_request", {}),
            ("Server", kinds.DEFAULT_5_XX, None, "internal error", "internal", {}),
        ):
            body = {
                "message": message,
                "detail": message,
                "error": {"message": message, "type": error_type, "param": None, "code": int(status) if status else 0},
                "error_type": error_type,
            }
            template = json.dumps(body)
            if status is None:
                template = template.replace('"code": 0', '"code": "$context.status"')
            api.add_gateway_response(
                f"{name}Response",
                type=kind,
                status_code=status,
                response_headers=headers or None,
                templates={"application/json": template},
            )

    def _keys(self, api: apigateway.RestApi, settings: Settings) -> apigateway.IApiKey:
        plan = api.add_usage_plan(
            "Standard",
            name=f"{settings.prefix}-standard",
            throttle=apigateway.ThrottleSettings(rate_limit=settings.api.rate_per_second, burst_limit=settings.api.burst),
            quota=apigateway.QuotaSettings(limit=settings.api.requests_per_month, period=apigateway.Period.MONTH),
        )
        plan.add_api_stage(stage=api.deployment_stage)
        key = api.add_api_key("FirstKey", api_key_name=f"{settings.prefix}-first", description="Made with the stack")
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
