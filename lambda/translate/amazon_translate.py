"""Amazon Translate as a shard needs it: one text in, one text out, and three kinds of errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as ConnectionFailure

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.translation.texts import TranslationSettings

# One attempt: throttling must reach the pace, which every thread of the shard goes by.
CLIENT_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
_THROTTLED = {"TooManyRequestsException", "ThrottlingException", "Throttling", "LimitExceededException", "RequestLimitExceeded"}
# Errors that would meet every text alike: they end the run, and no text is to blame.
_SETUP_ERRORS = {
    "UnsupportedLanguagePairException": "the language pair is not supported",
    "ResourceNotFoundException": "the terminology does not exist",
    "AccessDeniedException": "the function may not call Amazon Translate",
    "InvalidParameterValueException": "a parameter is not accepted",
    "UnrecognizedClientException": "the function's credentials are not accepted",
}


class Throttled(Exception):
    """The service wants fewer requests; this one was not billed."""


class Unavailable(Exception):
    """The service, or the way to it, failed; another attempt may succeed."""


class Refused(Exception):
    """The service will not translate this text."""


class OutOfTime(Exception):
    """The invocation has no time left for another request."""


@dataclass(frozen=True, slots=True)
class AmazonTranslate:
    """TranslateText under one run's settings.

    Args:
        client: a boto3 ``translate`` client (thread-safe) that does not retry by itself.
        settings: languages, formality and terminology.
    """

    client: Any
    settings: TranslationSettings

    def ask(self, text: str) -> str:
        """Return the translation of a text.

        Raises:
            Throttled, Unavailable: for another attempt.
            Refused: when this text can't be translated.
            PipelineError: when the service refuses the settings themselves.
        """
        settings = self.settings
        try:
            answer = self.client.translate_text(
                Text=text,
                SourceLanguageCode=settings.source_language,
                TargetLanguageCode=settings.target_language,
                **({"Settings": {"Formality": settings.formality}} if settings.formality else {}),
                **({"TerminologyNames": [settings.terminology]} if settings.terminology else {}),
            )
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
            if code in _THROTTLED:
                raise Throttled(code) from None
            if code in _SETUP_ERRORS:
                raise PipelineError(f"Amazon Translate: {_SETUP_ERRORS[code]} ({code}: {message})") from None
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400) >= 500:
                raise Unavailable(code) from None
            raise Refused(f"{code}: {message}") from None
        except (HTTPClientError, ConnectionFailure) as error:
            raise Unavailable(type(error).__name__) from None
        return str(answer["TranslatedText"])


class Pace:
    """How many requests may be in flight: one more after a round of successes, half as many when the service throttles.

    Args:
        most: the most at any time, and the number to begin with.
        in_time: whether there is time for another request.
    """

    def __init__(self, most: int, in_time: Callable[[], bool]) -> None:
        self._most = most
        self._in_time = in_time
        self._limit = float(most)
        self._active = 0
        self._lowered_for = 0
        self._started = 0
        self._turn = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._limit))

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Wait for a place, yield this request's number.

        Raises:
            OutOfTime: when there is no time left before there is a place.
        """
        with self._turn:
            while self._active >= self.limit:
                if not self._in_time():
                    raise OutOfTime
                self._turn.wait(0.5)
            if not self._in_time():
                raise OutOfTime
            self._active += 1
            self._started += 1
            number = self._started
        try:
            yield number
        finally:
            with self._turn:
                self._active -= 1
                self._turn.notify()

    def succeeded(self) -> None:
        with self._turn:
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
            self._turn.notify()

    def throttled(self, number: int) -> None:
        """Halve the limit, once for all the requests that were under way together."""
        with self._turn:
            if number > self._lowered_for:
                self._limit = max(1.0, self._limit / 2)
                self._lowered_for = self._started
