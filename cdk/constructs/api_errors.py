"""API Gateway's own errors, in the body that every client finds its message in."""

from __future__ import annotations

import json

from aws_cdk import aws_apigateway as apigateway

from ko_reranker.protocol import ProtocolError

_KINDS = apigateway.ResponseType
_TOO_LARGE = "the body is over the limit of 6 MB, in which escaped Korean takes 7 bytes a character: send fewer documents"

_ERRORS = {
    "InvalidKey": (_KINDS.INVALID_API_KEY, ProtocolError(401, "unknown API key, or one that is switched off")),
    "Unauthorized": (_KINDS.UNAUTHORIZED, ProtocolError(401, "no API key: send the header Authorization: Bearer KEY")),
    "AccessDenied": (_KINDS.ACCESS_DENIED, ProtocolError(403, "this key is not allowed here")),
    "Throttled": (_KINDS.THROTTLED, ProtocolError(429, "too many requests", headers={"Retry-After": "1"})),
    "Quota": (
        _KINDS.QUOTA_EXCEEDED,
        ProtocolError(429, "the quota of this key is used up for this month", None, "quota", {"Retry-After": "3600"}),
    ),
    # The only rule of the web ACL counts requests.
    "Filtered": (
        _KINDS.WAF_FILTERED,
        ProtocolError(429, "too many requests from this address", headers={"Retry-After": "60"}),
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


def add_error_responses(api: apigateway.RestApi) -> None:
    """Make the errors of an API speak as the rerank function does."""
    for name, (kind, error) in _ERRORS.items():
        api.add_gateway_response(
            f"{name}Response",
            type=kind,
            status_code=str(error.status),
            response_headers={header: f"'{value}'" for header, value in error.headers.items()} or None,
            templates={"application/json": json.dumps(error.body())},
        )
