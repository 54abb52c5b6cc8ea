"""The ASGI app: SageMaker's /ping and /invocations, and the public routes with the very same handler."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..protocol import (
    CONTAINER_ROUTES,
    ProtocolError,
    RerankRequest,
    RerankResult,
    ServiceFacts,
    asks_for_facts,
    check_content_type,
    check_documents,
    decode_body,
    describe,
    encode_body,
    find_operation,
    normalise_path,
    openapi,
    parse_request,
    render_response,
)
from .counters import Counters
from .logs import log, log_defect
from .options import ServingOptions
from .scoring import ScoringThread

if TYPE_CHECKING:
    from ..rankers import Ranker

_REQUEST_ID_HEADERS = ("x-request-id", "x-amzn-sagemaker-inference-id")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


def create_app(ranker: Ranker, options: ServingOptions | None = None) -> Starlette:
    """Return the app that serves a ranker.

    Args:
        ranker: a loaded model; the app warms it up at start and scores in one thread.
        options: limits; the defaults suit a SageMaker endpoint.
    """
    endpoint = RerankEndpoint(ranker, options or ServingOptions())
    return Starlette(routes=[Route("/{path:path}", endpoint)], lifespan=endpoint.lifespan)


class RerankEndpoint:
    """Answers every path, so that 404 and 405 carry the error body of the protocol, too."""

    def __init__(self, ranker: Ranker, options: ServingOptions) -> None:
        self._scoring = ScoringThread(ranker, options)
        self._options = options
        model = self._options.model_name or ranker.model_id
        self._facts = ServiceFacts(model, ranker.max_length, self._options.max_documents)
        self._counters = Counters()
        self._warm = False

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Warm up before the first request, let go of the scoring thread after the last."""
        started = time.perf_counter()
        await self._scoring.warm_up()
        self._warm = True
        log("warm", milliseconds=_milliseconds_since(started))
        try:
            yield
        finally:
            self._warm = False
            self._scoring.close()
            log("drained")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = _request_id(request)
        with contextlib.suppress(ClientDisconnect):
            response = await self._answer(request, request_id)
            response.headers["x-request-id"] = request_id
            await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Response:
        started = time.perf_counter()
        facts: dict[str, Any] = {"request_id": request_id}
        try:
            path = normalise_path(request.scope["path"])
            operation = find_operation(CONTAINER_ROUTES, request.method, path)
            if operation != "rerank":
                return self._describe(operation)
            answer = await self._rerank(request, path, request_id, facts)
            log("rerank", **facts, status=200, milliseconds=_milliseconds_since(started))
            self._counters.answered(time.perf_counter() - started, facts)
            return _json(200, answer)
        except ProtocolError as error:
            refused = {"status": error.status, "error_type": error.error_type, "param": error.param}
            self._counters.refused(error.status, error.error_type)
            log("refused", **facts, **refused, milliseconds=_milliseconds_since(started))
            return _json(error.status, error.body(), error.headers)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._counters.refused(500, "backend")
            log_defect("defect", error, **facts, status=500, milliseconds=_milliseconds_since(started))
            return _json(500, ProtocolError(500, f"internal error, see the log of request {request_id}").body())

    async def _rerank(self, request: Request, path: str, request_id: str, facts: dict[str, Any]) -> Any:
        check_content_type(request.headers.get("content-type"))
        body = decode_body(await self._body(request))
        if asks_for_facts(body, path):
            return self._facts.encode()
        rerank = parse_request(body, path)
        check_documents(len(rerank.documents), self._options.max_documents)
        facts |= {"dialect": rerank.dialect, "documents": len(rerank.documents)}
        result = replace(await self._scoring.score(rerank), id=request_id)
        facts |= _counts(rerank, result)
        return render_response(rerank, result)

    def _describe(self, operation: str) -> Response:
        if operation == "health":
            return _health(self._warm)
        if operation == "metrics":
            return Response(self._counters.render(), media_type="text/plain; version=0.0.4")
        if operation == "openapi":
            return _json(200, openapi.document(max_documents=self._options.max_documents, keys=False))
        return _json(200, describe(operation, self._facts))

    async def _body(self, request: Request) -> bytes:
        limit = self._options.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)


def _counts(request: RerankRequest, result: RerankResult) -> dict[str, int]:
    blank = sum(document.blank for document in request.documents)
    return {"tokens": sum(result.tokens), "truncated": sum(result.truncated), "blank": blank}


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError(413, f"the body is over the limit of {limit / 1e6:g} MB: send fewer documents at a time")


def _health(warm: bool) -> Response:
    return _json(200, {"status": "ok"}) if warm else _json(503, {"status": "starting"})


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_body(value), status, headers, media_type="application/json")


def _request_id(request: Request) -> str:
    for name in _REQUEST_ID_HEADERS:
        value = request.headers.get(name, "")
        if _REQUEST_ID.fullmatch(value):
            return value
    return str(uuid.uuid4())


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
