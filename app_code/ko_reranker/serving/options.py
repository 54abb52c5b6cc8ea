"""Everything that can be set about serving, in one object."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol import MAX_DOCUMENTS


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How the app behaves; what the model does is the ranker's.

    Attributes:
        model_name: the model's name in answers that the caller did not name it in; None takes the ranker's.
        max_body_bytes: a longer request body is refused with 413.
        max_documents: more documents in one request are refused with 422.
        max_waiting: requests that may wait beside the one being scored; past it the caller gets 429 and comes again.
        max_waiting_bytes: bodies of all the requests in the house together; past it the caller gets 429, too.
        request_timeout_seconds: a request that has no scores after this long gets 429 and gives up its place.
        drain_seconds: after SIGTERM, how long requests in flight may take before they are cut off.
    """

    model_name: str | None = None
    max_body_bytes: int = 25_000_000
    max_documents: int = MAX_DOCUMENTS
    max_waiting: int = 256
    max_waiting_bytes: int = 200_000_000
    request_timeout_seconds: float = 60
    drain_seconds: int = 25
