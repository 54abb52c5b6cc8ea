"""The public API in one process: API Gateway's part as few lines, the two functions themselves, and a model without weights."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ko_reranker.protocol import (
    BLANK_LOGIT,
    INVOCATIONS,
    ProtocolError,
    RerankResult,
    asks_for_facts,
    decode_body,
    encode_body,
    parse_request,
    render_response,
)

LAMBDA = Path(__file__).parents[2] / "lambda"
KEY = "a-key-that-api-gateway-knows"
_OPEN = {"/health", "/openapi.json"}


class Model:
    """In the place of the runtime client: the longer a document, the better."""

    def invoke(self, endpoint: str, body: bytes, inference_id: str, seconds: float, on_call: Callable[[], None]) -> bytes:
        on_call()
        asked = decode_body(body)
        if asks_for_facts(asked, INVOCATIONS):
            return encode_body({"model": "lengths", "max_length": 512})
        request = parse_request(asked, INVOCATIONS)
        lengths = [len(document.text) for document in request.documents]
        result = RerankResult(
            logits=tuple(BLANK_LOGIT if d.blank else float(n - 4) for d, n in zip(request.documents, lengths, strict=True)),
            tokens=tuple(lengths),
            truncated=tuple(length > 400 for length in lengths),
            model="lengths",
            max_length=512,
        )
        return encode_body(render_response(request, result))


class PublicApi:
    """A WSGI app: what API Gateway does between a client and the functions."""

    def __init__(self) -> None:
        with _importing("authorizer"):
            self._authorise = importlib.import_module("api_keys").find_key
        with _importing("rerank"):
            self.reranking = importlib.import_module("reranking")
            self.endpoint = importlib.import_module("model_endpoint").ModelEndpoint("live", Model())

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {name[5:].replace("_", "-").title(): text for name, text in environ.items() if name.startswith("HTTP_")}
        headers |= {"Content-Type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answer = self.call(environ["REQUEST_METHOD"], path, headers, body)
        start_response(f"{answer['statusCode']} -", list(answer["headers"].items()))
        return [answer["body"].encode()]

    def call(self, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        """Return the proxy response to a request."""
        is_open = method in {"GET", "HEAD"} and path in _OPEN
        if not is_open and self._authorise(headers) != KEY:
            refused = ProtocolError(401, "unknown API key, or one that is switched off")
            content = encode_body(refused.body()).decode()
            return {"statusCode": 401, "headers": {"Content-Type": "application/json"}, "body": content}
        event = {
            "httpMethod": method,
            "path": path,
            "headers": headers,
            # Every media type is binary to the API.
            "body": base64.b64encode(body).decode() if body else None,
            "isBase64Encoded": bool(body),
            "requestContext": {"requestId": "a1b2", "stage": "api"},
        }
        with contextlib.redirect_stdout(io.StringIO()):  # the function's log
            return self.answer(event)

    def answer(self, event: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """Return the rerank function's answer to an event.

        Args:
            settings: of the function, where they are not its defaults.
        """
        answer: dict[str, Any] = self.reranking.answer(event, self.endpoint, self.reranking.Settings("live", **settings))
        return answer


@contextlib.contextmanager
def _importing(function: str) -> Iterator[None]:
    folder = str(LAMBDA / function)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
