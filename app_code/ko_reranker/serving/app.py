"""The ASGI app: SageMaker's /ping and /invocations, and the public routes with the very same handler."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from ..protocol import (
    CONTAINER_ROUTES,
    OPEN_OPERATIONS,
    TIMEOUT_HEADER,
    ProtocolError,
    RerankRequest,
    RerankResult,
    ServiceFacts,
    asks_for_facts,
    busy,
    check_content_type,
    cors_headers,
    decode_body,
    decompress_body,
    describe,
    encode_body,
    find_operation,
    is_compressed,
    normalise_path,
    openapi,
    parse_request,
    preflight_headers,
    read_timeout,
    render_response,
)
from .access import Keys
from .intake import Intake
from .logs import log, log_defect
from .metrics import Metrics
from .options import ServingOptions
from .preparing import SMALL_BODY, Threads
from .scoring import Scoring, Timings
from .trace import Trace

if TYPE_CHECKING:
    from ..rankers import Cost, Ranker

# Large requests that came before took all the time.
_RETRY_AFTER_SECONDS = 5
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


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way through the app.

    Attributes:
        request: as it came.
        operation: what it asks for.
        path: normalised.
        trace: of the time it takes.
    """

    request: Request
    operation: str
    path: str
    trace: Trace


Handler = Callable[[Asked], Awaitable[Response]]


class EveryPath(Route):
    """Every path there is; the pattern alone takes none with a line break in it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match = Match.FULL if scope["type"] == "http" else Match.NONE
        return match, {"endpoint": self.endpoint, "path_params": {}}


class RerankEndpoint:
    """Answers every path, so that 404 and 405 carry the error body of the protocol, too."""

    def __init__(self, ranker: Ranker, options: ServingOptions, metrics: Metrics) -> None:
        self._threads = Threads()
        self._scoring = Scoring(ranker, options, self._threads)
        self._options = options
        name = options.model_name or ranker.model_id
        most = options.max_documents
        self._max_documents = most if ranker.max_documents is None else min(most, ranker.max_documents)
        self._facts = ServiceFacts(
            name,
            ranker.max_length,
            self._max_documents,
            whole=not ranker.absolute,
            raw_scale=ranker.raw_scale,
            precision=ranker.precision,
            precision_reason=ranker.precision_reason,
        )
        self._intake = Intake(options)
        self._keys = Keys(options.keys)
        closed = set() if options.open_health else {"health"}
        self._open = (OPEN_OPERATIONS - closed) | ({"metrics"} if options.open_metrics else set())
        self._handlers: dict[str, Handler] = {
            "rerank": self._rerank,
            "health": self._health,
            "ready": self._ready,
            "metrics": self._exposition,
            "openapi": self._openapi,
            **dict.fromkeys(("info", "models", "model"), self._describe),
        }
        self._metrics = metrics
        metrics.describe(self._facts)
        metrics.watch(lambda: self._intake.in_progress, lambda: self._scoring.waiting)
        if ranker.vectors is not None:
            metrics.watch_vectors(ranker.vectors)
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
        origins = self._options.cors_origins
        preflight = preflight_headers(request.method, request.headers, origins)
        if preflight is not None:
            await Response(status_code=204, headers=preflight)(scope, receive, send)
            return
        trace = Trace(_request_id(request))
        try:
            response = await self._answer(request, trace)
        except ClientDisconnect:
            # Nobody reads an answer; 499 is what nginx calls this, too.
            self._metrics.refused(499, "disconnected")
            log("disconnected", **trace.finish(), status=499)
            return
        response.headers["x-request-id"] = trace.request_id
        response.headers.update(cors_headers(request.headers.get("origin"), origins))
        await response(scope, receive, send)

    async def _answer(self, request: Request, trace: Trace) -> Response:
        try:
            path = normalise_path(request.scope["path"])
            operation = find_operation(CONTAINER_ROUTES, request.method, path)
            if operation not in self._open:
                self._keys.check(request.headers)
            return await self._handlers[operation](Asked(request, operation, path, trace))
        except ProtocolError as error:
            refused = {"status": error.status, "error_type": error.error_type, "param": error.param}
            self._metrics.refused(error.status, error.error_type)
            # Overload is the operator's to see, a caller's mistake is the caller's.
            log("refused", logging.WARNING if error.status == 429 else logging.INFO, **trace.finish(), **refused)
            return _json(error.status, error.body(), error.headers)
        except ClientDisconnect:
            raise
        except Exception as error:
            self._metrics.refused(500, "backend")
            log_defect("defect", error, **trace.finish(), status=500)
            return _json(500, ProtocolError(500, f"internal error, see the log of request {trace.request_id}").body())

    async def _rerank(self, asked: Asked) -> Response:
        body = await self._ranking(asked.request, asked.path, asked.trace)
        log("rerank", **asked.trace.finish(), status=200)
        self._metrics.answered(asked.trace.seconds, asked.trace.facts)
        return Response(body, media_type="application/json")

    async def _ranking(self, request: Request, path: str, trace: Trace) -> bytes:
        check_content_type(request.headers.get("content-type"))
        limit = min(self._options.request_timeout_seconds, read_timeout(request.headers.get(TIMEOUT_HEADER)))
        deadline = trace.arrived + limit
        with self._intake.admit() as place:
            body = await place.read(request, deadline)
            rerank = None
            try:
                with trace.phase("parse"):
                    body = await self._decompress(body, request.headers.get("content-encoding"), deadline)
                    place.grow(len(body))
                    rerank = await self._parse(body, path, deadline)
                if rerank is None:
                    return encode_body(self._facts.encode())
                trace.facts |= {"dialect": rerank.dialect, "documents": len(rerank.documents)}
                result, timings, cost = await self._score(request, rerank, deadline)
            except TimeoutError:
                message = f"not scored within {limit:g} seconds: come again, or send fewer documents at a time"
                raise busy(message, self._scoring.retry_after(rerank) if rerank else _RETRY_AFTER_SECONDS) from None
            trace.seconds |= {"tokenise": timings.tokenise, "queue": timings.queue, "compute": timings.compute}
            trace.facts |= _counts(rerank, result) | {"model_calls": cost.model_calls}
            trace.facts |= {"comparisons": cost.comparisons} if cost.comparisons else {}
            with trace.phase("render"):
                return encode_body(render_response(rerank, replace(result, id=trace.request_id)))

    async def _decompress(self, body: bytes, content_encoding: str | None, deadline: float) -> bytes:
        """Return a body as it was before it was compressed, which is done in a thread.

        Raises:
            ProtocolError: it can't be.
            TimeoutError: the deadline passed.
        """
        if not is_compressed(body, content_encoding):
            return body
        limit = self._options.max_body_bytes
        # gzip ends with its size once decompressed; a lie is found out at the limit.
        large = len(body) > SMALL_BODY or int.from_bytes(body[-4:], "little") > SMALL_BODY
        work = functools.partial(decompress_body, body, content_encoding, limit)
        return await self._threads.run(lambda check: work(), large=large, deadline=deadline)

    async def _parse(self, body: bytes, path: str, deadline: float) -> RerankRequest | None:
        """Return the request of a body, None for one that asks for the facts; a large body is read in a thread.

        Raises:
            ProtocolError: whatever is wrong with it.
            TimeoutError: the deadline passed.
        """

        def parse(check: Callable[[], None]) -> RerankRequest | None:
            value = decode_body(body)
            check()
            return None if asks_for_facts(value, path) else parse_request(value, path, self._max_documents)

        if len(body) <= SMALL_BODY:
            return parse(lambda: None)
        return await self._threads.run(parse, large=True, deadline=deadline)

    async def _score(self, request: Request, rerank: RerankRequest, deadline: float) -> tuple[RerankResult, Timings, Cost]:
        """Score a request, unless its client goes away or its time is over first: then its place is given up.

        Raises:
            ClientDisconnect: the client went away.
            ProtocolError: 429.
            TimeoutError: the deadline passed.
        """
        scoring = asyncio.create_task(self._scoring.score(rerank, deadline))
        leaving = asyncio.create_task(_disconnected(request))
        try:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait({scoring, leaving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if scoring.done():
                return scoring.result()
            if leaving.done():
                raise ClientDisconnect
            raise TimeoutError
        finally:
            scoring.cancel()
            leaving.cancel()
            await asyncio.gather(scoring, leaving, return_exceptions=True)

    async def _describe(self, asked: Asked) -> Response:
        return _json(200, describe(asked.operation, self._facts, asked.path))

    async def _openapi(self, asked: Asked) -> Response:
        return _json(200, openapi.document(max_documents=self._max_documents, keys=bool(self._keys)))

    async def _exposition(self, asked: Asked) -> Response:
        exposition, content_type = self._metrics.render(asked.request.headers.get("accept", ""))
        return Response(exposition, media_type=content_type)

    async def _ready(self, asked: Asked) -> Response:
        healthy = await self._health(asked)
        return healthy if healthy.status_code != 200 else Response(status_code=204)

    async def _health(self, asked: Asked) -> Response:
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
