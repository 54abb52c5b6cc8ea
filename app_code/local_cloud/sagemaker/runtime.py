"""InvokeEndpoint: a request to one of the endpoint's processes, with AWS's limits and error types."""

from __future__ import annotations

import json
from typing import Any

from local_cloud.sagemaker.context import Context
from local_cloud.sagemaker.hosting import Hosting

MAX_BODY_BYTES = 25 * 1024 * 1024
INVOKE_SECONDS = 60.0
_FORWARDED = ("content-type", "accept", "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-inference-id")
_MESSAGE_CHARACTERS = 1024
Response = tuple[int, dict[str, str], bytes]


class Runtime:
    """The data plane; lives on the event loop."""

    def __init__(self, context: Context, hosting: Hosting) -> None:
        self._context = context
        self._hosting = hosting
        self._client: Any = None

    async def invoke(self, endpoint: str, headers: dict[str, str], body: bytes) -> Response:
        """Forward ``body`` to an instance of ``endpoint``."""
        if len(body) > MAX_BODY_BYTES:
            return _error(413, "ValidationError", f"Request body is larger than the limit of {MAX_BODY_BYTES} bytes.")
        variant = headers.get("x-amzn-sagemaker-target-variant")
        instance = self._hosting.choose(endpoint, variant)
        if instance is None:
            return self._not_ready(endpoint, variant)
        forwarded = {name: headers[name] for name in _FORWARDED if name in headers}
        instance.in_flight += 1
        try:
            answer = await self._post(f"http://127.0.0.1:{instance.port}/invocations", body, forwarded)
        except Exception as error:
            return self._model_error(endpoint, instance.variant, 0, _transport_message(instance.variant, error))
        finally:
            instance.in_flight -= 1
        if answer.status_code >= 400:
            return self._model_error(endpoint, instance.variant, answer.status_code, answer.text)
        result = {
            "Content-Type": answer.headers.get("content-type", "application/json"),
            "x-Amzn-Invoked-Production-Variant": instance.variant,
        }
        custom = answer.headers.get("x-amzn-sagemaker-custom-attributes")
        return 200, {**result, **({"X-Amzn-SageMaker-Custom-Attributes": custom} if custom else {})}, answer.content

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> Any:
        import httpx

        if self._client is None:
            # Shorter than the servers' own keep-alive, so that no request is sent into a connection that is closing.
            limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
            self._client = httpx.AsyncClient(timeout=INVOKE_SECONDS, limits=limits, trust_env=False)
        return await self._client.post(url, content=body, headers=headers)

    def _not_ready(self, endpoint: str, variant: str | None) -> Response:
        if self._hosting.status(endpoint) == "InService" and variant:
            return _error(400, "ValidationError", f"Variant {variant} of endpoint {endpoint} not found.")
        if self._hosting.has_been_live(endpoint):
            message = f"Endpoint {endpoint} is starting its model again after a restart of the local cloud. Try again."
            return _error(429, "ModelNotReadyException", message)
        account = self._context.settings.account_id
        return _error(400, "ValidationError", f"Endpoint {endpoint} of account {account} not found.")

    def _model_error(self, endpoint: str, variant: str, status: int, message: str) -> Response:
        settings = self._context.settings
        console = (
            f"https://{settings.region}.console.aws.amazon.com/cloudwatch/home?region={settings.region}"
            f"#logEventViewer:group=/aws/sagemaker/Endpoints/{endpoint}"
        )
        kind = "client" if 400 <= status < 500 else "server"
        text = message[:_MESSAGE_CHARACTERS]
        arn = f"arn:aws:logs:{settings.region}:{settings.account_id}:log-group:/aws/sagemaker/Endpoints/{endpoint}"
        members = {"OriginalStatusCode": status, "OriginalMessage": text, "LogStreamArn": arn}
        where = f"See {console} in account {settings.account_id} for more information."
        said = f'Received {kind} error ({status}) from {variant} with message "{text}". {where}'
        return _error(424, "ModelError", said, members)


def _transport_message(variant: str, error: Exception) -> str:
    if type(error).__name__.endswith("Timeout"):
        return (
            f"Your invocation timed out while waiting for a response from container {variant}. Review the latency metrics for "
            "each container in Amazon CloudWatch, resolve the issue, and try again."
        )
    return f"The container {variant} closed the connection ({type(error).__name__})."


def _error(status: int, kind: str, message: str, members: dict[str, Any] | None = None) -> Response:
    body = json.dumps({"Message": message, **(members or {})}).encode()
    return status, {"Content-Type": "application/json", "x-amzn-ErrorType": kind}, body
