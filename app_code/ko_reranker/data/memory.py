"""The translation memory: a text that was translated once is never paid for again."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

# DynamoDB's limit on the keys of one BatchGetItem.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class TranslationSettings:
    """What a translation depends on besides its text.

    Attributes:
        source_language: Amazon Translate's code of the language to translate from, never ``auto`` (it bills a second service).
        target_language: its code of the language to translate to.
        formality: FORMAL, INFORMAL or None for the service's own choice.
        terminology: the name of a custom terminology, or None.
    """

    source_language: str
    target_language: str
    formality: str | None = None
    terminology: str | None = None

    @classmethod
    def of(cls, request: dict[str, Any]) -> TranslationSettings:
        """Take them from a resolved request."""
        return cls(
            request["source_language"],
            request["target_language"],
            request.get("formality"),
            request.get("terminology"),
        )

    def key(self, text: str) -> str:
        """Return the memory's key of a text under these settings (hexadecimal SHA-256)."""
        parts = (self.source_language, self.target_language, self.formality or "", self.terminology or "", text)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TranslationMemory:
    """The DynamoDB table of stored translations, one item a key.

    Args:
        client: a boto3 ``dynamodb`` client (thread-safe).
        table: the table's name; its partition key is the string attribute ``id``.
    """

    client: Any
    table: str

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the stored translations among the keys."""
        return {item["id"]["S"]: item["text"]["S"] for batch in _batches(keys) for item in self._get(batch, "id, #t")}

    def known(self, keys: Iterable[str]) -> set[str]:
        """Return which of the keys have a translation, without fetching the texts."""
        return {item["id"]["S"] for batch in _batches(keys) for item in self._get(batch, "id")}

    def put(self, key: str, text: str) -> None:
        """Store a translation; the first one stored stays."""
        try:
            self.client.put_item(
                TableName=self.table,
                Item={"id": {"S": key}, "text": {"S": text}, "stored_at": {"N": str(int(time.time()))}},
                ConditionExpression="attribute_not_exists(id)",
            )
        except self.client.exceptions.ConditionalCheckFailedException:
            pass

    def _get(self, keys: Sequence[str], projection: str) -> Iterator[dict[str, Any]]:
        names = {"ExpressionAttributeNames": {"#t": "text"}} if "#t" in projection else {}
        wanted: dict[str, Any] = {
            self.table: {"Keys": [{"id": {"S": key}} for key in keys], "ProjectionExpression": projection, **names}
        }
        delay = 0.05
        while wanted:
            answer = self.client.batch_get_item(RequestItems=wanted)
            yield from answer["Responses"].get(self.table, ())
            # What a throttled table left out is asked for again.
            wanted = answer.get("UnprocessedKeys") or {}
            if wanted:
                time.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311
                delay = min(2 * delay, 5.0)


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
