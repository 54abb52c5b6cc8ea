"""The SageMaker endpoint: one request's logits, and every way to fail as a status that a client understands."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)
from botocore.exceptions import ConnectionError as AnyConnectionError

from ko_reranker.protocol import ProtocolError, RerankRequest, RerankResult, busy, decode_body, encode_body
from ko_reranker.protocol.dialects.logits import UnreadableAnswer, decode_answer, encode_request

# API Gateway gives up after 29 seconds, callers expect an answer within 25: a failed connection, tried twice, and a full
# wait for the answer stay under that.
_CONNECT_SECONDS = 1
_READ_SECONDS = 22
# A connection that the endpoint closed while this function slept fails at once, before anything was scored.
_STALE_CONNECTION_SECONDS = 1.0

# InvokeEndpoint's own limit.
_MAX_REQUEST_BYTES = 6_291_456

_THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
_VALIDATION = {"ValidationError", "ValidationException"}
_ABSENT = ("not found", "could not find", "no capacity", "not in service", "not ready")
_CALLERS_FAULT = {400, 413, 415, 422}

_RETRY_BUSY, _RETRY_SLOW, _RETRY_STARTING = 1, 5, 30


class UpstreamError(ProtocolError):
    """A failure behind the API.

    Attributes:
        cause: for the operator's log, what AWS called it; the caller doesn't see it.
    """

    def __init__(self, shown: ProtocolError, cause: str) -> None:
        super().__init__(shown.status, shown.message, shown.param, shown.error_type, shown.headers)
        self.cause = cause


class ModelEndpoint:
    """A SageMaker endpoint that speaks the logits exchange.

    Args:
        name: the endpoint's name.
        client: a boto3 ``sagemaker-runtime`` client that doesn't retry by itself.
    """

    def __init__(self, name: str, client: Any) -> None:
        self._name = name
        self._client = client

    @classmethod
    def connect(cls, name: str) -> ModelEndpoint:
        """Return the endpoint with a client of its own, to be kept for the life of the process."""
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            tcp_keepalive=True,
        )
        return cls(name, boto3.client("sagemaker-runtime", config=config))

    def score(self, request: RerankRequest, request_id: str, *, on_call: Callable[[], None]) -> RerankResult:
        """Return the logits of a request.

        Args:
            request: what to score.
            request_id: shown in the container's log, too.
            on_call: called for every call that leaves.

        Raises:
            UpstreamError: when there is no answer.
        """
        body = encode_body(encode_request(request))
        if len(body) > _MAX_REQUEST_BYTES:
            raise ProtocolError(413, f"the documents have {len(body) / 1e6:.1f} MB, over the limit of 6.2 MB", "documents")
        try:
            answer = self._invoke(body, request_id, on_call)
        except (ClientError, BotoCoreError) as error:
            raise translate(error) from error
        try:
            return decode_answer(decode_body(answer), request)
        except (UnreadableAnswer, ProtocolError) as error:
            raise UpstreamError(_defect(), f"unreadable answer: {error}") from None

    def _invoke(self, body: bytes, request_id: str, on_call: Callable[[], None]) -> bytes:
        started = time.monotonic()
        try:
            return self._invoke_once(body, request_id, on_call)
        except (ConnectionClosedError, EndpointConnectionError):
            if time.monotonic() - started > _STALE_CONNECTION_SECONDS:
                raise
        return self._invoke_once(body, request_id, on_call)

    def _invoke_once(self, body: bytes, request_id: str, on_call: Callable[[], None]) -> bytes:
        on_call()
        response = self._client.invoke_endpoint(
            EndpointName=self._name,
            ContentType="application/json",
            Accept="application/json",
            InferenceId=request_id[:64],
            Body=body,
        )
        return response["Body"].read()


def translate(error: ClientError | BotoCoreError) -> UpstreamError:
    """Return what the caller is told about a failed call: overload is 429, only a real outage 503, the rest 500."""
    if isinstance(error, ClientError):
        return _translate_answer(error)
    cause = type(error).__name__
    if isinstance(error, ReadTimeoutError):
        return UpstreamError(_slow(), cause)
    if isinstance(error, (HTTPClientError, AnyConnectionError, IncompleteReadError)):
        return UpstreamError(_unreachable(), cause)
    return UpstreamError(_defect(), cause)


def _translate_answer(error: ClientError) -> UpstreamError:
    details = error.response.get("Error", {})
    code, message = str(details.get("Code", "")), str(details.get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "ModelError":
        return _translate_model_error(error.response)
    if code in _THROTTLED:
        return UpstreamError(busy("too many requests for the model", _RETRY_BUSY), code)
    if code == "ModelNotReadyException" or (code in _VALIDATION and _names_absence(message)):
        return UpstreamError(busy("the model is starting or switched off", _RETRY_STARTING), code)
    if status == 413:
        return UpstreamError(ProtocolError(413, "the documents are over the limit of 6.2 MB", "documents"), code)
    if code in {"ServiceUnavailable", "InternalDependencyException"}:
        return UpstreamError(_unreachable(), code)
    return UpstreamError(_defect(), code)


def _translate_model_error(response: dict[str, Any]) -> UpstreamError:
    """The container answered something else than 200, or nothing in SageMaker's time."""
    status = response.get("OriginalStatusCode")
    cause = f"ModelError {status}"
    if status in {429, 503}:
        return UpstreamError(busy("too many requests for the model", _RETRY_BUSY), cause)
    if status in _CALLERS_FAULT:
        return UpstreamError(_callers_fault(status, response.get("OriginalMessage")), cause)
    if not status and "timed out" in str(response.get("OriginalMessage") or response["Error"].get("Message")):
        return UpstreamError(_slow(), cause)
    return UpstreamError(_defect() if status else _unreachable(), cause)


def _callers_fault(status: int, original: Any) -> ProtocolError:
    """The container's own words, when it is ours; nothing else of what it said is shown."""
    try:
        said = decode_body(str(original))
        return ProtocolError(status, str(said["message"]), said["error"]["param"], str(said["error_type"]))
    except (ProtocolError, KeyError, TypeError):
        return ProtocolError(status, "the model refused the request")


def _names_absence(message: str) -> bool:
    return any(words in message.lower() for words in _ABSENT)


def _slow() -> ProtocolError:
    return busy("the model took too long: send fewer documents, or come again", _RETRY_SLOW)


def _unreachable() -> ProtocolError:
    return ProtocolError(503, "the model cannot be reached")


def _defect() -> ProtocolError:
    return ProtocolError(500, "the model failed")
