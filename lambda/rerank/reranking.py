"""One API Gateway event to one answer: route, validate before any GPU time is spent, score, render, report."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from model_endpoint import ModelEndpoint
from reporting import Report, defect

from ko_reranker.protocol import (
    MAX_DOCUMENTS,
    PUBLIC_ROUTES,
    ProtocolError,
    check_content_type,
    decode_body,
    describe,
    encode_body,
    find_operation,
    normalise_path,
    parse_request,
    render_response,
)

# Lambda hands at most 6 MB back to API Gateway; what wraps the body needs a little of it.
_MAX_ANSWER_BYTES = 5_900_000

_DEFAULT_NAMESPACE = "ko-reranker"


class WrongVariable(RuntimeError):
    """An environment variable that the function cannot work without is not set, or not as it has to be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the function is told by its environment.

    Attributes:
        endpoint_name: the SageMaker endpoint that scores.
        namespace: the CloudWatch namespace of the metrics.
        max_documents: a request with more is refused.
        documents_per_call: a request with more is split into several invocations.
        parallel_calls: how many invocations of one request are under way at a time.
    """

    endpoint_name: str
    namespace: str = _DEFAULT_NAMESPACE
    max_documents: int = MAX_DOCUMENTS
    documents_per_call: int = 500
    parallel_calls: int = 4

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings at cold start.

        Raises:
            WrongVariable: naming the variable.
        """
        name = environment.get("ENDPOINT_NAME", "").strip()
        if not name:
            raise WrongVariable("the environment variable ENDPOINT_NAME is not set: the CDK stack sets it, deploy again")
        counts = {key: _count(environment, key.upper()) for key in ("max_documents", "documents_per_call", "parallel_calls")}
        return cls(
            name,
            environment.get("METRICS_NAMESPACE") or _DEFAULT_NAMESPACE,
            **{key: value for key, value in counts.items() if value is not None},
        )


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise WrongVariable(f"the environment variable {name} must be a whole number above zero, is {value!r}")
    return int(value)


def answer(event: Mapping[str, Any], endpoint: ModelEndpoint, settings: Settings) -> dict[str, Any]:
    """Return the proxy response to an API Gateway REST event; whatever happens, it is one."""
    request_id = str((event.get("requestContext") or {}).get("requestId") or "unknown")
    report = Report(settings.namespace, settings.endpoint_name, request_id)
    try:
        path = normalise_path(str(event.get("path") or "/"))
        operation = find_operation(PUBLIC_ROUTES, str(event.get("httpMethod")), path)
        if operation == "rerank":
            body = _rerank(event, path, endpoint, settings, report)
        else:
            body = encode_body(_describe(operation, event, endpoint, settings, report))
        return _response(200, body, request_id)
    except ProtocolError as error:
        report.fail(error)
        return _response(error.status, encode_body(error.body()), request_id, error.headers)
    except Exception as error:
        hidden = ProtocolError(500, f"internal error, tell the operator the request id {request_id}")
        report.fail(hidden, cause=defect(error))
        return _response(500, encode_body(hidden.body()), request_id)
    finally:
        report.emit()


def _describe(
    operation: str, event: Mapping[str, Any], endpoint: ModelEndpoint, settings: Settings, report: Report
) -> Mapping[str, Any]:
    if operation == "health":
        return {"status": "ok"}
    if operation == "openapi":
        from ko_reranker.protocol import openapi  # asked for once in a while, so that no cold start pays for it

        return openapi.document(_base_url(event), max_documents=settings.max_documents)
    facts = endpoint.facts(report.request_id, on_call=report.count_call)
    return describe(operation, replace(facts, max_documents=settings.max_documents))


def _base_url(event: Mapping[str, Any]) -> str:
    """Where the caller found the API: API Gateway's own host has the stage in its path, every other has not.

    CloudFront adds the stage itself, and asks under that host, too; its own header tells.
    """
    host = _header(event, "host") or ""
    stage = (event.get("requestContext") or {}).get("stage")
    return f"/{stage}" if ".execute-api." in host and stage and not _header(event, "x-amz-cf-id") else "/"


def _rerank(event: Mapping[str, Any], path: str, endpoint: ModelEndpoint, settings: Settings, report: Report) -> bytes:
    check_content_type(_header(event, "content-type"))
    request = parse_request(decode_body(_body(event)), path, settings.max_documents)
    report.request(request)
    started = time.perf_counter()
    try:
        result = endpoint.score(request, report.request_id, on_call=report.count_call)
    finally:
        report.upstream_milliseconds = (time.perf_counter() - started) * 1000
    report.result(result)
    body = encode_body(render_response(request, replace(result, id=report.request_id)))
    if len(body) > _MAX_ANSWER_BYTES:
        raise ProtocolError(413, f"the answer has {len(body) / 1e6:.1f} MB, over the limit of 5.9 MB: set top_n", "top_n")
    return body


def _body(event: Mapping[str, Any]) -> str | bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return body
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(400, "the body is not JSON: it is not even the base64 that it claims to be") from None


def _header(event: Mapping[str, Any], name: str) -> str | None:
    for key, value in (event.get("headers") or {}).items():
        if key.lower() == name:
            return value
    return None


def _response(status: int, body: bytes, request_id: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "X-Request-Id": request_id, **(headers or {})},
        "body": body.decode(),
        "isBase64Encoded": False,
    }
