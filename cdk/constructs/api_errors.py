"""API Gateway's own errors, in the body that every client finds its message in."""

from __future__ import annotations

import json

from aws_cdk import aws_apigateway as apigateway

from cdk.constructs.rate_rule import PAST_CLOUDFRONT, TOO_MANY
from ko_reranker.protocol import ProtocolError

_KINDS = apigateway.ResponseType
# Lambda's 6 MB, less what base64 takes of it.
_TOO_LARGE = "the body is over the limit of 4.5 MB: send fewer documents, unescaped (escaped Korean is twice as long), or gzip"

_ERRORS = {
    "InvalidKey": (_KINDS.INVALID_API_KEY, ProtocolError(401, "unknown API key, or one that is switched off")),
    "Unauthorized": (_KINDS.UNAUTHORIZED, ProtocolError(401, "no API key: send the header Authorization: Bearer KEY")),
    "AccessDenied": (_KINDS.ACCESS_DENIED, ProtocolError(403, "this key is not allowed here")),
    "Throttled": (_KINDS.THROTTLED, ProtocolError(429, "too many requests", headers={"Retry-After": "1"})),
    "Quota": (
        _KINDS.QUOTA_EXCEEDED,
        ProtocolError(429, "the quota of this key is used up for this month", None, "quota", {"Retry-After": "3600"}),
    ),
    "TooLarge": (_KINDS.REQUEST_TOO_LARGE, ProtocolError(413, _TOO_LARGE)),
    "MediaType": (_KINDS.UNSUPPORTED_MEDIA_TYPE, ProtocolError(415, "the body must be JSON")),
    "NoRoute": (_KINDS.MISSING_AUTHENTICATION_TOKEN, ProtocolError(404, "there is nothing at this path")),
    "NotFound": (_KINDS.RESOURCE_NOT_FOUND, ProtocolError(404, "there is nothing at this path")),
    # Past 29 seconds: the model is busy. A 504 would make clients come again at once.
    "Timeout": (
        _KINDS.INTEGRATION_TIMEOUT,
        ProtocolError(429, "the model took too long: come again", headers={"Retry-After": "5"}),
    ),
    "Client": (_KINDS.DEFAULT_4_XX, ProtocolError(400, "the request is not valid")),
    "Server": (_KINDS.DEFAULT_5_XX, ProtocolError(500, "internal error")),
}


def add_error_responses(api: apigateway.RestApi, *, behind_cloudfront: bool, for_pages: bool) -> None:
    """Make the errors of an API speak as the rerank function does.

    Args:
        behind_cloudfront: whether the web ACL here refuses what has not come through CloudFront, instead of counting.
        for_pages: whether web pages may call the API; then any may read these errors, which hold nothing of anybody's.
    """
    shared = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"} if for_pages else {}
    errors = {**_ERRORS, "Filtered": (_KINDS.WAF_FILTERED, PAST_CLOUDFRONT if behind_cloudfront else TOO_MANY)}
    for name, (kind, error) in errors.items():
        api.add_gateway_response(
            f"{name}Response",
            type=kind,
            status_code=str(error.status),
            response_headers={header: f"'{value}'" for header, value in (error.headers | shared).items()} or None,
            templates={"application/json": json.dumps(error.body())},
        )
