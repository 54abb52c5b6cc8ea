"""One API Gateway event to one answer: route, validate before any GPU time is spent, score, render, report."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from document_counts import DocumentCounts, Standing, Uncounted
from model_endpoint import DEADLINE_SECONDS, EndpointAway, ModelEndpoint
from reporting import Report, defect
from tiers import Caller, Tier, caller_of, read_tiers
from waking import Waking

from ko_reranker.protocol import (
    MAX_DOCUMENTS,
    PUBLIC_ROUTES,
    ProtocolError,
    check_content_type,
    cors_headers,
    decode_body,
    decompress_body,
    describe,
    encode_body,
    find_operation,
    normalise_path,
    parse_request,
    preflight_headers,
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
        deadline_seconds: how long a request may take, all its invocations together.
        tiers: what keys may send, by the name of their tier; the first is that of keys that name none.
        counts_table: the DynamoDB table that counts the documents of each key; None counts none.
        cors_origins: web pages of these origins may call the API from a browser, ``*`` for all.
        wake_seconds: what bringing an endpoint back takes that was taken away.
        wake_machine: the state machine (ARN) that does so when it is asked; None has nothing brought back by requests.
    """

    endpoint_name: str
    namespace: str = _DEFAULT_NAMESPACE
    max_documents: int = MAX_DOCUMENTS
    documents_per_call: int = 500
    parallel_calls: int = 4
    deadline_seconds: float = DEADLINE_SECONDS
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    counts_table: str | None = None
    cors_origins: tuple[str, ...] = ()
    wake_seconds: int = 600
    wake_machine: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings at cold start.

        Raises:
            WrongVariable: naming the variable.
        """
        name = environment.get("ENDPOINT_NAME", "").strip()
        if not name:
            raise WrongVariable("the environment variable ENDPOINT_NAME is not set: the CDK stack sets it, deploy again")
        counted = ("max_documents", "documents_per_call", "parallel_calls", "wake_seconds")
        counts = {key: _count(environment, key.upper()) for key in counted}
        return cls(
            name,
            environment.get("METRICS_NAMESPACE") or _DEFAULT_NAMESPACE,
            **{key: value for key, value in counts.items() if value is not None},
            deadline_seconds=_seconds(environment, "DEADLINE_SECONDS") or DEADLINE_SECONDS,
            tiers=_tiers(environment, "TIERS"),
            counts_table=environment.get("COUNTS_TABLE") or None,
            cors_origins=tuple(environment.get("CORS_ORIGINS", "").split()),
            wake_machine=environment.get("WAKE_MACHINE") or None,
        )

    def max_documents_of(self, tier: Tier) -> int:
        """Return how many documents a request of a tier's key may have."""
        return min(self.max_documents, tier.documents_per_request or self.max_documents)


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise WrongVariable(f"the environment variable {name} must be a whole number above zero, is {value!r}")
    return int(value)


def _tiers(environment: Mapping[str, str], name: str) -> dict[str, Tier]:
    try:
        return read_tiers(environment.get(name) or "{}")
    except (AttributeError, TypeError, ValueError) as error:
        raise WrongVariable(
            f"the environment variable {name} must be a JSON object of tiers with their limits: {error}"
        ) from None


def _seconds(environment: Mapping[str, str], name: str) -> float | None:
    value = environment.get(name)
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 30:
        raise WrongVariable(f"the environment variable {name} must be seconds above 0 and below 30, is {value!r}")
    return seconds


def answer(
    event: Mapping[str, Any],
    endpoint: ModelEndpoint,
    settings: Settings,
    counts: DocumentCounts | None = None,
    waking: Waking | None = None,
) -> dict[str, Any]:
    """Return the proxy response to an API Gateway REST event; whatever happens, it is one.

    Args:
        event: the request.
        endpoint: the model.
        settings: limits.
        counts: of the documents of each key; None counts none.
        waking: tells callers of an endpoint that is away when to come again; None has nothing brought back.
    """
    headers = _headers(event)
    preflight = preflight_headers(str(event.get("httpMethod")), headers, settings.cors_origins)
    if preflight is not None:
        return {"statusCode": 204, "headers": preflight, "body": "", "isBase64Encoded": False}
    response = _answer(event, headers, endpoint, settings, counts, waking or Waking(settings.wake_seconds))
    response["headers"] |= cors_headers(headers.get("origin"), settings.cors_origins)
    return response


def _answer(
    event: Mapping[str, Any],
    headers: Mapping[str, str],
    endpoint: ModelEndpoint,
    settings: Settings,
    counts: DocumentCounts | None,
    waking: Waking,
) -> dict[str, Any]:
    request_id = str(_table(event, "requestContext").get("requestId") or "unknown")
    report = Report(settings.namespace, settings.endpoint_name, request_id)
    try:
        caller = caller_of(event, settings.tiers)
        path = normalise_path(str(event.get("path") or "/"))
        operation = find_operation(PUBLIC_ROUTES, str(event.get("httpMethod")), path)
        asked = _Asked(event, headers, operation, path, endpoint, settings, counts, caller, report)
        try:
            return _HANDLERS[operation](asked)
        except EndpointAway as away:
            # Who only asks what there is, such as a monitor every minute, keeps no endpoint running.
            waking.tell(away, report, wake=operation == "rerank")
            raise
    except ProtocolError as error:
        report.fail(error)
        return _response(error.status, encode_body(error.body()), request_id, error.headers)
    except Exception as error:
        hidden = ProtocolError(500, f"internal error, tell the operator the request id {request_id}")
        report.fail(hidden, cause=defect(error))
        return _response(500, encode_body(hidden.body()), request_id)
    finally:
        report.emit()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an event asks for, at a normalised path, and what it takes to answer; the headers' names are in lower case."""

    event: Mapping[str, Any]
    headers: Mapping[str, str]
    operation: str
    path: str
    endpoint: ModelEndpoint
    settings: Settings
    counts: DocumentCounts | None
    caller: Caller
    report: Report


def _health(asked: _Asked) -> dict[str, Any]:
    return _told(asked, {"status": "ok"})


def _openapi(asked: _Asked) -> dict[str, Any]:
    from ko_reranker.protocol import openapi  # asked for once in a while, so that no cold start pays for it

    return _told(asked, openapi.document(_base_url(asked), max_documents=asked.settings.max_documents))


def _describe(asked: _Asked) -> dict[str, Any]:
    facts = asked.endpoint.facts(asked.report.request_id, on_call=asked.report.count_call)
    limit = min(facts.max_documents, asked.settings.max_documents_of(asked.caller.tier))
    return _told(asked, describe(asked.operation, replace(facts, max_documents=limit), asked.path))


def _told(asked: _Asked, value: Mapping[str, Any]) -> dict[str, Any]:
    body = encode_body(value)
    return _response(200, b"" if asked.event.get("httpMethod") == "HEAD" else body, asked.report.request_id)


def _base_url(asked: _Asked) -> str:
    """Where the caller found the API: API Gateway's own host has the stage in its path, every other has not.

    CloudFront adds the stage itself, and asks under that host, too; its own header tells.
    """
    host = asked.headers.get("host") or ""
    stage = _table(asked.event, "requestContext").get("stage")
    return f"/{stage}" if ".execute-api." in host and stage and not asked.headers.get("x-amz-cf-id") else "/"


def _rerank(asked: _Asked) -> dict[str, Any]:
    arrived = time.monotonic()
    report = asked.report
    check_content_type(asked.headers.get("content-type"))
    most = asked.settings.max_documents_of(asked.caller.tier)
    request = parse_request(decode_body(_body(asked)), asked.path, most)
    report.request(request)
    standing = _count_documents(len(request.documents), asked.counts, asked.caller, report)
    headers = standing.headers if standing else {}
    started = time.perf_counter()
    try:
        result = asked.endpoint.score(request, report.request_id, on_call=report.count_call, since=arrived)
    except ProtocolError as error:
        error.headers |= headers
        raise
    finally:
        report.upstream_milliseconds = (time.perf_counter() - started) * 1000
    report.result(result)
    body = encode_body(render_response(request, replace(result, id=report.request_id)))
    if len(body) > _MAX_ANSWER_BYTES:
        reason = f"the answer has {len(body) / 1e6:.1f} MB, over the limit of 5.9 MB: set top_n"
        raise ProtocolError(413, reason, "top_n", headers=headers)
    return _response(200, body, report.request_id, headers)


# Of every operation that a public route names.
_HANDLERS: Mapping[str, Callable[[_Asked], dict[str, Any]]] = {
    "rerank": _rerank,
    "health": _health,
    "openapi": _openapi,
    **dict.fromkeys(("info", "models", "model"), _describe),
}


def _count_documents(documents: int, counts: DocumentCounts | None, caller: Caller, report: Report) -> Standing | None:
    """Count the documents of a valid request; None where there is no limit, or nobody to count.

    Raises:
        ProtocolError: 429 when the key has too few left in this minute.
    """
    limit = caller.tier.documents_per_minute
    if counts is None or limit is None or caller.key_id is None:
        return None
    started = time.perf_counter()
    try:
        return counts.count(caller.key_id, documents, limit)
    except Uncounted as error:
        report.uncounted(str(error))
        return None
    finally:
        report.count_milliseconds = (time.perf_counter() - started) * 1000


def _body(asked: _Asked) -> str | bytes:
    """The API takes every media type as binary, so that the very bytes arrive here, in base64.

    Without a Content-Type API Gateway may decode them all the same, with U+FFFD for what isn't UTF-8. Nothing tells such a
    character from a caller's own, and it must not be ranked.
    """
    body = asked.event.get("body") or ""
    if not asked.event.get("isBase64Encoded"):
        if "\ufffd" in body:
            raise ProtocolError(
                400, "the body may not be UTF-8: send it as UTF-8, with the header Content-Type: application/json"
            )
        return body
    try:
        sent = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(400, "the body is not JSON: it is not even the base64 that it claims to be") from None
    return decompress_body(sent, asked.headers.get("content-encoding"))


def _table(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of an event that holds names and values; nothing where the event has no such part."""
    part = event.get(name)
    return part if isinstance(part, Mapping) else {}


def _headers(event: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers by their names in lower case."""
    return {name.lower(): value for name, value in _table(event, "headers").items()}


def _response(status: int, body: bytes, request_id: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "X-Request-Id": request_id, **(headers or {})},
        "body": body.decode(),
        "isBase64Encoded": False,
    }
