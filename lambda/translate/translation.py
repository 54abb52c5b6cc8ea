"""Translating a shard: what the memory knows is taken from it, the rest is translated and stored at once.

Each translation goes into the memory as soon as it is there, so that an invocation that dies has lost, and will pay again for,
only the requests in flight. A text that can't be translated becomes a failure with its reason; the join puts the records that
need it into quarantine. Nothing but a translation ever stands where a translation belongs.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import dump_line
from ko_reranker.data.memory import TranslationMemory, TranslationSettings
from ko_reranker.data.store import Store

# TranslateText's limit on one text.
MAX_TEXT_BYTES = 10_000
# The adaptive mode slows the client down to what the service's throttling lets through.
TRANSLATE_CONFIG = Config(retries={"mode": "adaptive", "max_attempts": 8}, connect_timeout=5, read_timeout=30)
# Below this the invocation stops, writes what it has and hands its cursor back.
_RESERVE_MILLISECONDS = 45_000
_BATCH = 100
# Errors that would meet every text alike: they end the run, and no text is to blame.
_SETUP_ERRORS = {
    "UnsupportedLanguagePairException": "the language pair is not supported",
    "ResourceNotFoundException": "the terminology does not exist",
    "AccessDeniedException": "the function may not call Amazon Translate",
    "InvalidParameterValueException": "a parameter is not accepted",
}


def translate_shard(
    event: dict[str, Any],
    store: Store,
    memory: TranslationMemory,
    translate: Any,
    concurrency: int,
    remaining_milliseconds: Callable[[], int],
) -> dict[str, Any]:
    """Translate the texts of a shard from the cursor on.

    Args:
        event: ``shard`` (int), ``key`` (of the shard's texts), ``cursor`` (texts done by earlier invocations) and ``request``.
        store: the data bucket; translations go to ``<prefix>/translated/<shard>/<cursor>.jsonl``.
        memory: the translation memory.
        translate: a boto3 ``translate`` client (thread-safe).
        concurrency: how many requests may be in flight.
        remaining_milliseconds: the time this invocation has left.

    Returns:
        The event with the new ``cursor`` and ``finished``.

    Raises:
        PipelineError: when the service refuses the settings themselves.
    """
    request, cursor = event["request"], event["cursor"]
    settings = TranslationSettings.of(request)
    counts: Counter[str] = Counter()
    done, finished = 0, True
    part = f"{request['prefix']}/translated/{event['shard']:05d}/{cursor:09d}"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(concurrency) as pool:
        path = Path(folder) / "part.jsonl"
        with path.open("wb") as out:
            for batch in _batches(islice(store.rows(event["key"]), cursor, None)):
                if done and remaining_milliseconds() < _RESERVE_MILLISECONDS:
                    finished = False
                    break
                for row in _translate_batch(batch, settings, memory, translate, pool, counts):
                    out.write(dump_line(row))
                done += len(batch)
        store.upload(path, f"{part}.jsonl")
    store.write_json(f"{part}.counts.json", dict(counts))
    return {**event, "cursor": cursor + done, "finished": finished}


def _batches(rows: Iterator[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _translate_batch(
    batch: list[dict[str, str]],
    settings: TranslationSettings,
    memory: TranslationMemory,
    translate: Any,
    pool: ThreadPoolExecutor,
    counts: Counter[str],
) -> list[dict[str, str]]:
    known = memory.find(row["id"] for row in batch)
    counts["from_memory"] += len(known)
    missing = [row for row in batch if row["id"] not in known]

    def one(row: dict[str, str]) -> dict[str, str]:
        text, reason = _translate_text(translate, row["text"], settings)
        if reason is not None:
            return {"id": row["id"], "error": reason}
        memory.put(row["id"], text)
        return {"id": row["id"], "text": text}

    answers = {row["id"]: row for row in pool.map(one, missing)}
    for row in missing:
        failed = "error" in answers[row["id"]]
        counts["failed" if failed else "translated"] += 1
        counts["billed_characters"] += 0 if failed else len(row["text"])
    return [answers.get(row["id"]) or {"id": row["id"], "text": known[row["id"]]} for row in batch]


def _translate_text(translate: Any, text: str, settings: TranslationSettings) -> tuple[str, str | None]:
    """Return ``(translation, None)``, or ``("", reason)`` for a text that the service can't translate."""
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        return "", f"{size} bytes are more than the {MAX_TEXT_BYTES} that Amazon Translate takes"
    try:
        answer = translate.translate_text(
            Text=text,
            SourceLanguageCode=settings.source_language,
            TargetLanguageCode=settings.target_language,
            **({"Settings": {"Formality": settings.formality}} if settings.formality else {}),
            **({"TerminologyNames": [settings.terminology]} if settings.terminology else {}),
        )
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in _SETUP_ERRORS:
            raise PipelineError(f"Amazon Translate: {_SETUP_ERRORS[code]} ({code}: {message})") from None
        return "", f"{code}: {message}"
    except BotoCoreError as error:
        return "", f"{type(error).__name__} after every retry"
    translated = answer["TranslatedText"]
    return (translated, None) if translated.strip() else ("", "came back empty")
