"""A URL whose path begins with the API's own routes, without the stage that API Gateway puts in front.

Several clients replace the path of the base URL that they are given.
"""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge
from cdk.constructs.rate_rule import ORIGIN_HEADER, OriginCheck
from ko_reranker.settings import Api

_KEPT_ERRORS = (400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504)


class ApiRoot(Construct):
    """The public face of a REST API.

    Attributes:
        url: without a slash at its end.
    """

    url: str

    def __init__(
        self, scope: Construct, construct_id: str, *, api: apigateway.RestApi, settings: Api, edge_acl_arn: str | None = None
    ) -> None:
        super().__init__(scope, construct_id)
        if settings.root == "cloudfront":
            self.url = self._distribution(api, settings, edge_acl_arn)
        elif settings.root == "custom_domain":
            self.url = self._domain(api, settings)
        else:
            self.url = cdk.Fn.join("", ["https://", _host(api), "/", api.deployment_stage.stage_name])

    def _distribution(self, api: apigateway.RestApi, settings: Api, edge_acl_arn: str | None) -> str:
        keys = self._origin_keys(settings.origin_key) if edge_acl_arn else []
        origin = origins.HttpOrigin(
            _host(api),
            origin_path=f"/{api.deployment_stage.stage_name}",
            protocol_policy=cloudfront.OriginProtocolPolicy.HTTPS_ONLY,
            origin_ssl_protocols=[cloudfront.OriginSslPolicy.TLS_V1_2],
            read_timeout=cdk.Duration.seconds(30),  # API Gateway itself ends at 29
            keepalive_timeout=cdk.Duration.seconds(60),
            custom_headers={ORIGIN_HEADER: keys[0]} if keys else None,
        )
        distribution = cloudfront.Distribution(
            self,
            "Distribution",
            comment="ko-reranker: the rerank API at the root of a domain",
            default_behavior=cloudfront.BehaviorOptions(
                origin=origin,
                allowed_methods=cloudfront.AllowedMethods.ALLOW_ALL,
                cache_policy=cloudfront.CachePolicy.CACHING_DISABLED,
                # With every header, Authorization among them; API Gateway must see its own host.
                origin_request_policy=cloudfront.OriginRequestPolicy.ALL_VIEWER_EXCEPT_HOST_HEADER,
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.HTTPS_ONLY,
                compress=False,
            ),
            # CloudFront keeps an error for ten seconds whatever the cache policy says, and hands it to callers with other keys.
            error_responses=[
                cloudfront.ErrorResponse(http_status=status, ttl=cdk.Duration.seconds(0)) for status in _KEPT_ERRORS
            ],
            minimum_protocol_version=cloudfront.SecurityPolicyProtocol.TLS_V1_2_2021,
            http_version=cloudfront.HttpVersion.HTTP2_AND_3,
            web_acl_id=edge_acl_arn,
        )
        acknowledge(distribution, "CFR1", reason="Callers may be anywhere; keys decide.")
        acknowledge(distribution, "CFR2", reason="A web ACL is a setting of the stage.")
        acknowledge(
            distribution, "CFR3", reason="API Gateway's access log holds every request that passes, and names its key by id."
        )
        acknowledge(
            distribution,
            "CFR4",
            reason="CloudFront's own domain fixes the version; root custom_domain speaks TLS 1.2 and later.",
        )
        if keys:
            acl = OriginCheck(self, "OriginCheck", accepted=keys).acl
            waf.CfnWebACLAssociation(
                self, "OriginAssociation", resource_arn=api.deployment_stage.stage_arn, web_acl_arn=acl.attr_arn
            )
            # A new value is accepted before CloudFront begins to send it.
            distribution.node.add_dependency(acl)
        return f"https://{distribution.distribution_domain_name}"

    def _origin_keys(self, number: int) -> list[str]:
        """Values of the header that only CloudFront knows: the present one, and the one before, which its edges still send.

        CloudFormation resolves them as it writes them into CloudFront and the web ACL; no template and no output has them.
        """
        values = []
        for n in (number, number - 1):
            if n < 1:
                continue
            secret = secretsmanager.Secret(
                self,
                f"OriginKey{n}",
                description="What CloudFront tells the API to be known by; raise api.origin_key to rotate it",
                generate_secret_string=secretsmanager.SecretStringGenerator(password_length=48, exclude_punctuation=True),
                removal_policy=cdk.RemovalPolicy.DESTROY,
            )
            rotated = "Rotated by a deploy with another api.origin_key: CloudFront's configuration has to change with it."
            acknowledge(secret, "SMG4", reason=rotated)
            values.append(secret.secret_value.unsafe_unwrap())
        return values

    def _domain(self, api: apigateway.RestApi, settings: Api) -> str:
        name = settings.domain_name or ""
        domain = apigateway.DomainName(
            self,
            "Domain",
            domain_name=name,
            certificate=acm.Certificate.from_certificate_arn(self, "Certificate", settings.certificate_arn or ""),
            endpoint_type=apigateway.EndpointType.REGIONAL,
            security_policy=apigateway.SecurityPolicy.TLS_1_2,
            mapping=api,
        )
        if settings.hosted_zone_id:
            zone = route53.HostedZone.from_hosted_zone_attributes(
                self, "Zone", hosted_zone_id=settings.hosted_zone_id, zone_name=name.partition(".")[2]
            )
            alias = route53.RecordTarget.from_alias(targets.ApiGatewayDomain(domain))
            route53.ARecord(self, "Record", zone=zone, record_name=f"{name}.", target=alias)
        else:
            cdk.CfnOutput(self, "Target", value=domain.domain_name_alias_domain_name, description=f"Point {name} here")
        return f"https://{name}"


def _host(api: apigateway.RestApi) -> str:
    stack = cdk.Stack.of(api)
    return f"{api.rest_api_id}.execute-api.{stack.region}.{stack.url_suffix}"
