"""The errors SageMaker answers with."""

from __future__ import annotations


class ApiError(Exception):
    """An error of the control plane, as AWS words it.

    Attributes:
        code: AWS's error code, for example ``ValidationException``.
        message: AWS's sentence.
        status: HTTP status.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> ApiError:
    """A request that SageMaker refuses."""
    return ApiError("ValidationException", message)


class JobError(Exception):
    """A job cannot go on; the message becomes its FailureReason."""
