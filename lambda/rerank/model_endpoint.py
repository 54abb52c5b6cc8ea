"""The SageMaker endpoint: one request's logits, in as many invocations as it takes, and every failure as a status."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sagemaker_runtime import ConnectionFailed, EndpointError, NotConnected, RuntimeClient, TooSlow

from ko_reranker.protocol import (
    FACTS_REQUEST,
    ProtocolError,
    RerankRequest,
    RerankResult,
    ServiceFacts,
    busy,
    decode_body,
    encode_body,
)
from ko_reranker.protocol.dialects.logits import UnreadableAnswer, decode_answer, encode_request
from ko_reranker.protocol.errors import invalid

# API Gateway gives up after 29 seconds, callers expect an answer within 25; `api.deadline_seconds` says another.
DEADLINE_SECONDS = 24.0

# InvokeEndpoint's own limit, and how much of it a part may take: its JSON has quotes, commas and the query besides.
MAX_CALL_BYTES = 6_000_000
_PART_BYTES = 5_000_000

# Characters that a query may come to which is repeated in every part: a small request must not become many large ones.
_MOST_REPEATED = 2_000_000

_FACTS_SECONDS = 60.0

_THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
_VALIDATION = {"ValidationError", "ValidationException"}
_OUTAGE = {"ServiceUnavailable", "ServiceUnavailableException", "InternalDependencyException"}
_ABSENT = ("not found", "could not find")
_UNREADY = ("no capacity", "not in service", "not ready")
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


class EndpointAway(UpstreamError):
    """There is no endpoint, or none that has begun to serve: it was taken away, or is just being made."""


class ModelEndpoint:
    """A SageMaker endpoint that speaks the logits exchange.

    Args:
        name: the endpoint's name.
        client: calls it.
        documents_per_call: a request with more is split.
        parallel_calls: how many parts of one request are under way at a time.
        deadline_seconds: how long a request may take, all its calls together.
    """

    def __init__(
        self,
        name: str,
        client: RuntimeClient,
        *,
        documents_per_call: int = 500,
        parallel_calls: int = 4,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._name = name
        self._client = client
        self._documents_per_call = documents_per_call
        self._parallel_calls = parallel_calls
        self._deadline_seconds = deadline_seconds
        self._facts: tuple[float, ServiceFacts] | None = None

    def score(
        self, request: RerankRequest, request_id: str, *, on_call: Callable[[], None], since: float | None = None
    ) -> RerankResult:
        """Return the logits of a request.

        Args:
            request: what to score.
            request_id: shown in the container's log, too.
            on_call: called for every call that leaves.
            since: when its time began, on the clock of `time.monotonic`; None for now.

        Raises:
            ProtocolError: when there is no answer.
        """
        deadline = (time.monotonic() if since is None else since) + self._deadline_seconds
        request, distinct_of = request.distinct()
        parts = [
            request.part(indexes) if len(indexes) < len(request.documents) else request for indexes in self._split(request)
        ]
        if len(request.queries) == 1 and (len(parts) - 1) * len(request.queries[0]) > _MOST_REPEATED:
            raise invalid(
                "query", f"is too long to be sent with each of {len(parts)} parts: shorten it, or send fewer documents"
            )
        # Written before any is sent: what can't be sent is refused before it costs anything.
        bodies = [_body(part) for part in parts]
        if len(parts) > 1 and (facts := self.facts(request_id, on_call=on_call, deadline=deadline)).whole:
            if len(request.documents) > facts.max_documents:
                raise _too_many(len(request.documents), facts.max_documents)
            parts, bodies = [request], [_body(request)]

        def call(index: int) -> RerankResult:
            answer = self._call(bodies[index], request_id, deadline, on_call)
            try:
                return decode_answer(answer, parts[index])
            except UnreadableAnswer as error:
                raise UpstreamError(_defect(), f"unreadable answer: {error}") from None

        results = [call(0)] if len(parts) == 1 else _in_parallel(call, len(parts), self._parallel_calls)
        if len(parts) > 1 and not all(result.absolute for result in results):
            self._facts = None
            raise UpstreamError(busy("another model has just taken over", _RETRY_BUSY), "split for a model that ranks whole")
        return RerankResult.joined(results).spread(distinct_of)

    def facts(self, request_id: str, *, on_call: Callable[[], None], deadline: float | None = None) -> ServiceFacts:
        """Return what is served, at most a minute old.

        Args:
            request_id: shown in the container's log, too.
            on_call: called for the call, if one leaves.
            deadline: on the clock of `time.monotonic`; None for a request's whole time from now.

        Raises:
            ProtocolError: when the endpoint doesn't answer.
        """
        now = time.monotonic()
        if self._facts is None or now - self._facts[0] > _FACTS_SECONDS:
            deadline = now + self._deadline_seconds if deadline is None else deadline
            answer = self._call(encode_body(FACTS_REQUEST), request_id, deadline, on_call)
            try:
                self._facts = now, ServiceFacts.decode(answer)
            except ValueError as error:
                raise UpstreamError(_defect(), f"unreadable answer: {error}") from None
        return self._facts[1]

    def _split(self, request: RerankRequest) -> Iterator[range]:
        """Yield the indexes of the documents of each call."""
        start, size = 0, 0
        for index, document in enumerate(request.documents):
            # At most three bytes a character; exact sizes only matter near the limit, and are checked once written.
            length = 3 * len(document.text) + (3 * len(request.query_of(index)) if len(request.queries) > 1 else 0)
            if index > start and (index - start >= self._documents_per_call or size + length > _PART_BYTES):
                yield range(start, index)
                start, size = index, 0
            size += length
        yield range(start, len(request.documents))

    def _call(self, body: bytes, request_id: str, deadline: float, on_call: Callable[[], None]) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise UpstreamError(_slow(), "deadline")
        try:
            answer = self._client.invoke(self._name, body, request_id[:64], left, on_call)
        except EndpointError as error:
            raise translate(error) from None
        except TooSlow as error:
            raise UpstreamError(_slow(), str(error)) from None
        except NotConnected as error:
            # Nothing was sent, so it is worth another try; 503 would make clients try thirty times.
            shown = _unreachable() if error.outage else busy("the model is busy, it took no connection in time", _RETRY_SLOW)
            raise UpstreamError(shown, str(error)) from None
        except ConnectionFailed as error:
            raise UpstreamError(_unreachable(), str(error)) from None
        try:
            return decode_body(answer)
        except ProtocolError as error:
            raise UpstreamError(_defect(), f"unreadable answer: {error}") from None


def translate(error: EndpointError) -> UpstreamError:
    """Return what the caller is told about a failed call: overload is 429, only a real outage 503, the rest 500."""
    code, message = error.code, str(error.members.get("Message") or "")
    if code == "ModelError":
        return _translate_model_error(error.members)
    if code in _THROTTLED:
        return UpstreamError(busy("too many requests for the model", _RETRY_BUSY), code)
    if code in _VALIDATION and _names(_ABSENT, message):
        return EndpointAway(busy("the model is switched off or starting", _RETRY_STARTING), code)
    if code == "ModelNotReadyException" or (code in _VALIDATION and _names(_UNREADY, message)):
        return UpstreamError(busy("the model is starting", _RETRY_STARTING), code)
    if error.status == 413:
        return UpstreamError(_too_large(), code)
    if code in _OUTAGE or error.status in {502, 503, 504}:
        return UpstreamError(_unreachable(), code)
    return UpstreamError(_defect(), code)


def _translate_model_error(members: Mapping[str, Any]) -> UpstreamError:
    """The container answered something else than 200, or nothing in SageMaker's time."""
    status = members.get("OriginalStatusCode")
    cause = f"ModelError {status}"
    if status in {429, 503}:
        return UpstreamError(busy("too many requests for the model", _RETRY_BUSY), cause)
    if status in _CALLERS_FAULT:
        return UpstreamError(_callers_fault(status, members.get("OriginalMessage")), cause)
    if not status and "timed out" in str(members.get("OriginalMessage") or members.get("Message")):
        return UpstreamError(_slow(), cause)
    return UpstreamError(_defect() if status else _unreachable(), cause)


def _callers_fault(status: int, original: Any) -> ProtocolError:
    """The container's own words, when it is ours; nothing else of what it said is shown."""
    try:
        said = decode_body(str(original))
        return ProtocolError(status, str(said["message"]), said["error"]["param"], str(said["error_type"]))
    except (ProtocolError, KeyError, TypeError):
        return ProtocolError(status, "the model refused the request")


def _body(part: RerankRequest) -> bytes:
    body = encode_body(encode_request(part))
    if len(body) > MAX_CALL_BYTES:
        raise _too_large()
    return body


def _in_parallel(call: Callable[[int], RerankResult], count: int, at_a_time: int) -> Sequence[RerankResult]:
    """Return the results of all calls in order; after a failure no further call leaves."""
    results: list[Any] = [None] * count
    waiting = iter(range(count))
    failures: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                index = None if failures else next(waiting, None)
            if index is None:
                return
            try:
                results[index] = call(index)
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(min(at_a_time, count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def _names(phrases: Sequence[str], message: str) -> bool:
    return any(words in message.lower() for words in phrases)


def _too_large() -> ProtocolError:
    return ProtocolError(413, f"a document or query is over the limit of {MAX_CALL_BYTES / 1e6:g} MB", "documents")


def _too_many(documents: int, most: int) -> ProtocolError:
    return invalid(
        "documents", f"are {documents}, over the limit of {most} of a model that compares them: send fewer at a time"
    )


def _slow() -> ProtocolError:
    return busy("the model took too long: send fewer documents, or come again", _RETRY_SLOW)


def _unreachable() -> ProtocolError:
    return ProtocolError(503, "the model cannot be reached")


def _defect() -> ProtocolError:
    return ProtocolError(500, "the model failed")
