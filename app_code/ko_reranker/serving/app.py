"""The ASGI app: SageMaker's /ping and /invocations, and the public routes with the very same handler."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from ..protocol import (
    CONTAINER_ROUTES,
    ProtocolError,
    RerankRequest,
    RerankResult,
    ServiceFacts,
    asks_for_facts,
    busy,
    check_content_type,
    decode_body,
    describe,
    encode_body,
    find_operation,
    normalise_path,
    openapi,
    parse_request,
    render_response,
)
from .intake import Intake, read_body
from .logs import log, log_defect
from .metrics import Metrics
from .options import ServingOptions
from .scoring import Scoring, Timings
from .trace import Trace

if TYPE_CHECKING:
    from ..rankers import Ranker

# Who waited in vain finds a server that is far behind.
_RETRY_AFTER_TIMEOUT_SECONDS = 5
_REQUEST_ID_HEADERS = ("x-request-id", "x-amzn-sagemaker-inference-id")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


def create_app(ranker: Ranker, options: ServingOptions | None = None, metrics: Metrics | None = None) -> Starlette:
    """Return the app that serves a ranker.

    Args:
        ranker: a loaded model; the app warms it up at start.
        options: limits; the defaults suit a SageMaker endpoint.
        metrics: what the ranker's engine reports to, if it does.
    """
    endpoint = RerankEndpoint(ranker, options or ServingOptions(), metrics or Metrics())
    return Starlette(routes=[EveryPath("/{path:path}", endpoint)], lifespan=endpoint.lifespan)


class EveryPath(Route):
    """Every path there is; the pattern alone takes none with a line break in it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match = Match.FULL if scope["type"] == "http" else Match.NONE
        return match, {"endpoint": self.endpoint, "path_params": {}}


class RerankEndpoint:
    """Answers every path, so that 404 and 405 carry the error body of the protocol, too."""

    def __init__(self, ranker: Ranker, options: ServingOptions, metrics: Metrics) -> None:
        self._scoring = Scoring(ranker, options)
        self._options = options
        self._facts = ServiceFacts(options.model_name or ranker.model_id, ranker.max_length, options.max_documents)
        self._intake = Intake(options)
        self._metrics = metrics
        metrics.describe(self._facts)
        metrics.watch(lambda: self._intake.requests, lambda: self._scoring.waiting)
        self._warm = False

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Warm up before the first request, let go of the model after the last."""
        trace = Trace("warm-up")
        await self._scoring.warm_up()
        self._warm = True
        log("warm", milliseconds=trace.finish()["milliseconds"])
        try:
            yield
        finally:
            self._warm = False
            self._scoring.close()
            log("drained")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        trace = Trace(_request_id(request))
        try:
            response = await self._answer(request, trace)
        except ClientDisconnect:
            # Nobody reads an answer; 499 is what nginx calls this, too.
            self._metrics.refused(499, "disconnected")
            log("disconnected", **trace.finish(), status=499)
            return
        response.headers["x-request-id"] = trace.request_id
        await response(scope, receive, send)

    async def _answer(self, request: Request, trace: Trace) -> Response:
        try:
            path = normalise_path(request.scope["path"])
            operation = find_operation(CONTAINER_ROUTES, request.method, path)
            if operation != "rerank":
                return await self._describe(operation, request)
            body = await self._rerank(request, path, trace)
            log("rerank", **trace.finish(), status=200)
            self._metrics.answered(trace.seconds, trace.facts)
            return Response(body, media_type="application/json")
        except ProtocolError as error:
            refused = {"status": error.status, "error_type": error.error_type, "param": error.param}
            self._metrics.refused(error.status, error.error_type)
            log("refused", **trace.finish(), **refused)
            return _json(error.status, error.body(), error.headers)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._metrics.refused(500, "backend")
            log_defect("defect", error, **trace.finish(), status=500)
            return _json(500, ProtocolError(500, f"internal error, see the log of request {trace.request_id}").body())

    async def _rerank(self, request: Request, path: str, trace: Trace) -> bytes:
        check_content_type(request.headers.get("content-type"))
        with self._intake.admit() as hold:
            body = await read_body(request, self._options.max_body_bytes, hold)
            with trace.phase("parse"):
                value = decode_body(body)
                if asks_for_facts(value, path):
                    return encode_body(self._facts.encode())
                rerank = parse_request(value, path, self._options.max_documents)
            trace.facts |= {"dialect": rerank.dialect, "documents": len(rerank.documents)}
            result, timings = await self._score(request, rerank)
            trace.seconds |= {"tokenise": timings.tokenise, "queue": timings.queue, "compute": timings.compute}
            trace.facts |= _counts(rerank, result)
            with trace.phase("render"):
                return encode_body(render_response(rerank, replace(result, id=trace.request_id)))

    async def _score(self, request: Request, rerank: RerankRequest) -> tuple[RerankResult, Timings]:
        """Score a request, unless its client goes away or its time is over first: then its place is given up.

        Raises:
            ClientDisconnect: the client went away.
            ProtocolError: 429.
        """
        limit = self._options.request_timeout_seconds
        scoring = asyncio.create_task(self._scoring.score(rerank))
        leaving = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({scoring, leaving}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if scoring.done():
                return scoring.result()
            if leaving.done():
                raise ClientDisconnect
            message = f"not scored within {limit:g} seconds: come again, or send fewer documents at a time"
            raise busy(message, _RETRY_AFTER_TIMEOUT_SECONDS)
        finally:
            scoring.cancel()
            leaving.cancel()
            await asyncio.gather(scoring, leaving, return_exceptions=True)

    async def _describe(self, operation: str, request: Request) -> Response:
        if operation == "health":
            return await self._health()
        if operation == "metrics":
            exposition, content_type = self._metrics.render(request.headers.get("accept", ""))
            return Response(exposition, media_type=content_type)
        if operation == "openapi":
            return _json(200, openapi.document(max_documents=self._options.max_documents, keys=False))
        return _json(200, describe(operation, self._facts))

    async def _health(self) -> Response:
        if not self._warm:
            return _json(503, {"status": "starting"})
        return _json(200, {"status": "ok"}) if await self._scoring.healthy() else _json(503, {"status": "failing"})


def _counts(request: RerankRequest, result: RerankResult) -> dict[str, int]:
    return {
        "tokens": sum(result.tokens),
        "truncated": sum(result.truncated),
        "chunked": sum(count > 1 for count in result.chunks),
        "blank": sum(document.blank for document in request.documents),
    }


async def _disconnected(request: Request) -> None:
    # Once the body is read, there is nothing to receive but this.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_body(value), status, headers, media_type="application/json")


def _request_id(request: Request) -> str:
    for name in _REQUEST_ID_HEADERS:
        value = request.headers.get(name, "")
        if _REQUEST_ID.fullmatch(value):
            return value
    return str(uuid.uuid4())
