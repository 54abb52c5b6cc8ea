"""The one error of the protocol, and the body that every client finds its message in."""

from __future__ import annotations

from typing import Any

# status: (our error_type, the type that OpenAI-style clients know)
_KINDS = {
    400: ("malformed", "invalid_request_error"),
    401: ("unauthorized", "authentication_error"),
    403: ("forbidden", "permission_error"),
    404: ("not_found", "not_found_error"),
    405: ("method_not_allowed", "invalid_request_error"),
    408: ("incomplete", "invalid_request_error"),
    413: ("too_large", "invalid_request_error"),
    415: ("unsupported_media_type", "invalid_request_error"),
    422: ("validation", "invalid_request_error"),
    429: ("overloaded", "rate_limit_error"),
    500: ("backend", "server_error"),
    503: ("unhealthy", "server_error"),
}


class ProtocolError(Exception):
    """A request that cannot be answered, with everything the caller is told about it.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do, in one sentence; never the text of a query or a document.
        param: the offending field, for example ``documents[3]``; None when no field is to blame.
        error_type: a word for programs; by default the one that belongs to the status.
        headers: response headers that belong to the error, for example ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        error_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.error_type = error_type or _kind(status)[0]
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the error superset: clients read ``message``, ``detail``, ``error.message`` or ``error_type``."""
        error = {"message": self.message, "type": _kind(self.status)[1], "param": self.param, "code": self.status}
        return {"message": self.message, "detail": self.message, "error": error, "error_type": self.error_type}


def invalid(param: str, reason: str, *, error_type: str | None = None) -> ProtocolError:
    """Return the 422 that names a field and what is wrong with it."""
    return ProtocolError(422, f"{param}: {reason}", param, error_type)


def busy(message: str, retry_after: int) -> ProtocolError:
    """Return the 429 that says when to come again; overload is never a 503, which clients answer with a storm."""
    return ProtocolError(429, message, headers={"Retry-After": str(retry_after)})


def _kind(status: int) -> tuple[str, str]:
    return _KINDS.get(status) or _KINDS[400 if status < 500 else 500]
