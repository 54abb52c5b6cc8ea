"""Everything that a client raises."""

from __future__ import annotations


class RerankError(Exception):
    """There is no ranking."""


class ConnectionFailedError(RerankError):
    """The service can't be reached."""


class TimedOutError(ConnectionFailedError):
    """The service took longer than the client's timeout."""


class StatusError(RerankError):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        message: the service's own words.
        param: the field that is to blame, such as ``documents[3]``; None when none is.
        request_id: what the operator finds the request by.
    """

    def __init__(self, status: int, message: str, param: str | None = None, request_id: str | None = None) -> None:
        super().__init__(f"{message} (status {status}{f', request {request_id}' if request_id else ''})")
        self.status = status
        self.message = message
        self.param = param
        self.request_id = request_id


class InvalidRequestError(StatusError):
    """The request is wrong; sending it again doesn't help."""


class AuthenticationError(StatusError):
    """The key is missing, unknown or not allowed."""


class RateLimitError(StatusError):
    """Too many requests, a used-up quota, or a model that is busy or starting, even after the client's retries."""


class ServerError(StatusError):
    """The service failed."""


def error_for(status: int, message: str, param: str | None, request_id: str | None) -> StatusError:
    """Return the error of a status."""
    if status in (401, 403):
        kind: type[StatusError] = AuthenticationError
    elif status == 429:
        kind = RateLimitError
    else:
        kind = InvalidRequestError if status < 500 else ServerError
    return kind(status, message, param, request_id)
