"""Amazon Translate, stood in for by a phrasebook.

MiniStack 1.5.33 lacks TranslateText. There is no machine translation here either: a phrasebook holds the parallel
sample that ships with ko-reranker (English text, its Korean translation), and every other text is refused with a
message that says so. Size, language and throttling errors are the service's own. Newlines survive a translation, so
texts packed into one request line by line are found one by one.

Settings, read from the environment of the server:

- ``KO_RERANKER_TRANSLATE_CHARACTERS_PER_SECOND``: the account's quota (default 0, none): what exceeds ten seconds' worth is
  refused with TooManyRequestsException, as the service does, until time has passed;
- ``KO_RERANKER_TRANSLATE_THROTTLE_RATE``: share of requests refused with TooManyRequestsException (0 to 1, default 0);
- ``KO_RERANKER_TRANSLATE_ERROR_RATE``: share of requests refused with InternalServerException (0 to 1, default 0);
- ``KO_RERANKER_TRANSLATE_SEED``: of the draw that decides which requests are refused (default 0);
- ``KO_RERANKER_TRANSLATE_PHRASEBOOK``: another phrasebook (JSON Lines of ``{"en", "ko"}``, plain or gzip).
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import translate

from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.translate", "_DISPATCH"),)

TEXT_LIMIT = 10_000  # bytes of a request's text
_SOURCE, _TARGET = "en", "ko"
_LONGEST_PACK = 200  # lines of one phrase to try
_QUOTA_SECONDS = 10  # the service counts characters in windows of this length
_FORMALITY = ("FORMAL", "INFORMAL")


@dataclass
class Settings:
    """How often the stand-in refuses, and what it has been asked so far."""

    throttle_rate: float = 0.0
    error_rate: float = 0.0
    characters_per_second: float = 0.0
    phrasebook: str = ""
    requests: int = 0
    characters: int = 0
    now: Callable[[], float] = time.monotonic
    spent: float = 0.0  # characters of the quota in use
    spent_at: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 (repeatable faults)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; a rate outside 0 to 1 is an error that names its variable."""
        return cls(
            throttle_rate=_rate(environment, "KO_RERANKER_TRANSLATE_THROTTLE_RATE"),
            error_rate=_rate(environment, "KO_RERANKER_TRANSLATE_ERROR_RATE"),
            characters_per_second=_number(environment, "KO_RERANKER_TRANSLATE_CHARACTERS_PER_SECOND"),
            random=random.Random(environment.get("KO_RERANKER_TRANSLATE_SEED") or "0"),  # noqa: S311 (repeatable faults)
            phrasebook=environment.get("KO_RERANKER_TRANSLATE_PHRASEBOOK", ""),
        )

    def draw(self) -> float:
        """The next number of the repeatable sequence that decides on faults."""
        with self.lock:
            return self.random.random()

    def admits(self, characters: int) -> bool:
        """Tell whether the quota has room for a request, and take the room; it comes back as time passes."""
        if not self.characters_per_second:
            return True
        with self.lock:
            now = self.now()
            self.spent = max(0.0, self.spent - (now - self.spent_at) * self.characters_per_second)
            self.spent_at = now
            # An empty window takes one request of any size: else a small quota would refuse a large text for ever.
            if self.spent and self.spent + characters > _QUOTA_SECONDS * self.characters_per_second:
                return False
            self.spent += characters
            return True


def _rate(environment: Mapping[str, str], name: str) -> float:
    rate = _number(environment, name, "a number from 0 to 1")
    if rate > 1:
        raise ValueError(f"{name} must be a number from 0 to 1, not {environment[name]!r}")
    return rate


def _number(environment: Mapping[str, str], name: str, kind: str = "a number of at least 0") -> float:
    text = environment.get(name) or "0"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be {kind}, not {text!r}")
    return number


settings = Settings()


class UnknownText(Exception):
    """The phrasebook lacks a text."""


@functools.lru_cache(maxsize=4)
def load_phrasebook(path: str) -> dict[str, str]:
    """Korean translations by English text; an empty path means the shipped phrasebook."""
    source = Path(path) if path else files("ko_reranker.samples") / "phrasebook.jsonl.gz"
    raw = source.read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    pairs = (json.loads(line) for line in text.decode().splitlines() if line.strip())
    return {pair[_SOURCE].strip(): pair[_TARGET] for pair in pairs}


def look_up(text: str, phrases: Mapping[str, str]) -> str:
    """Translate a text, or every line of it; the longest run of lines that is one phrase goes first.

    Raises:
        UnknownText: with the first line that the phrasebook lacks.
    """
    if not text.strip():
        return text
    if text.strip() in phrases:
        return _with_margins(text, phrases[text.strip()])
    lines = text.split("\n")
    translated: list[str] = []
    start = 0
    while start < len(lines):
        end = _longest_phrase(lines, start, phrases)
        phrase = "\n".join(lines[start:end])
        translated.append(_with_margins(phrase, phrases[phrase.strip()]) if phrase.strip() else phrase)
        start = end
    return "\n".join(translated)


def _longest_phrase(lines: list[str], start: int, phrases: Mapping[str, str]) -> int:
    if not lines[start].strip():
        return start + 1
    for end in range(min(len(lines), start + _LONGEST_PACK), start, -1):
        if "\n".join(lines[start:end]).strip() in phrases:
            return end
    raise UnknownText(lines[start].strip())


def _with_margins(text: str, translation: str) -> str:
    """The translation with the white space around the text."""
    lead = text[: len(text) - len(text.lstrip())]
    trail = text[len(text.rstrip()) :]
    return f"{lead}{translation}{trail}"


def _fault(text: str) -> Any | None:
    drawn = settings.draw()
    if drawn < settings.throttle_rate or not settings.admits(len(text)):
        return error_response_json(
            "TooManyRequestsException",
            "You have made too many requests within a short period of time. Wait for a short time and then try again.",
            400,
        )
    if drawn < settings.throttle_rate + settings.error_rate:
        return error_response_json("InternalServerException", "An internal server error occurred. Retry your request.", 500)
    return None


def _refusal(data: dict[str, Any]) -> Any | None:
    """AWS's answer to a request that it wouldn't translate, or None."""
    text, source, target = data.get("Text"), data.get("SourceLanguageCode"), data.get("TargetLanguageCode")
    if not isinstance(text, str) or not text:
        return error_response_json("ValidationException", "Text must have a length of at least 1", 400)
    if not source or not target:
        return error_response_json("ValidationException", "SourceLanguageCode and TargetLanguageCode are required", 400)
    if len(text.encode()) > TEXT_LIMIT:
        return error_response_json(
            "TextSizeLimitExceededException",
            f"Input text size exceeds limit. Max length of request text allowed is {TEXT_LIMIT} bytes while in this "
            f"request the text size is {len(text.encode())} bytes",
            400,
        )
    if (source, target) != (_SOURCE, _TARGET) and (source, target) != ("auto", _TARGET):
        return error_response_json(
            "UnsupportedLanguagePairException",
            f"Unsupported language pair: {source} to {target}. The local stand-in for Amazon Translate is a phrasebook "
            f"from {_SOURCE} to {_TARGET}.",
            400,
        )
    formality = (data.get("Settings") or {}).get("Formality")
    if formality not in (None, *_FORMALITY):
        return error_response_json(
            "ValidationException",
            f"1 validation error detected: Value '{formality}' at 'settings.formality' failed to satisfy constraint: Member "
            f"must satisfy enum value set: [{', '.join(_FORMALITY)}]",
            400,
        )
    if names := data.get("TerminologyNames"):
        # The stand-in has no terminologies to apply: naming one must not pass as if it had been applied.
        return error_response_json("ResourceNotFoundException", f"Could not find the resource: {names[0]}", 400)
    return None


def translate_text(data: dict[str, Any]) -> Any:
    """TranslateText."""
    problem = _refusal(data) or _fault(data["Text"])
    if problem is not None:
        return problem
    try:
        translation = look_up(data["Text"], load_phrasebook(settings.phrasebook))
    except UnknownText as error:
        return error_response_json(
            "UnsupportedOperationException",
            "This text is not in the phrasebook that stands in for Amazon Translate on this machine; it knows the "
            "English sample shipped with ko-reranker only. Use data that is Korean already (source_language ko), or "
            f"retrain on AWS. The text begins: {str(error)[:80]!r}",
            400,
        )
    except FileNotFoundError as error:
        return error_response_json("ServiceUnavailableException", f"The phrasebook is missing: {error}", 500)
    with settings.lock:
        settings.requests += 1
        settings.characters += len(data["Text"])
    formality = (data.get("Settings") or {}).get("Formality")
    return json_response(
        {
            "TranslatedText": translation,
            "SourceLanguageCode": _SOURCE,
            "TargetLanguageCode": _TARGET,
            # Korean is among the languages with formality; the phrasebook's register is what it is.
            **({"AppliedSettings": {"Formality": formality}} if formality else {}),
        }
    )


def install(patch: Patcher) -> None:
    """Add TranslateText and read the settings."""
    global settings
    settings = Settings.from_environment()
    patch.replace(translate, "_DISPATCH", lambda table: {**table, "TranslateText": translate_text})
