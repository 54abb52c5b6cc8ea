"""The translation memory: a text that was translated once is never paid for again.

One DynamoDB item a text. An item with ``text`` is a translation. An item without is a claim: some invocation is having the
text translated and will have stored it by ``claimed_until``; from then on whoever needs it may claim it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ko_reranker.data.errors import PipelineError

# DynamoDB's limits: keys of one BatchGetItem, actions of one transaction.
_BATCH = 100
_TRIES = 12
_FREE = "attribute_not_exists(#t) AND (attribute_not_exists(claimed_until) OR claimed_until < :now OR claimed_by = :me)"
_NO_TEXT = "attribute_not_exists(#t)"
_TEXT = {"#t": "text"}
_PASSING_REASONS = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of asking for some texts.

    Attributes:
        granted: keys that are ours to translate, and to pay for.
        known: translations that others have stored meanwhile.
        held: keys that someone else is having translated right now.
    """

    granted: frozenset[str]
    known: dict[str, str]
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class TranslationMemory:
    """The DynamoDB table of stored translations, one item a key.

    Args:
        client: a boto3 ``dynamodb`` client (thread-safe).
        table: the table's name; its partition key is the string attribute ``id``.
        sleep: how to wait.
        now: the time, in seconds since the epoch.
    """

    client: Any
    table: str
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time

    def find(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the stored translations among the keys."""
        return {
            item["id"]["S"]: item["text"]["S"]
            for batch in _batches(keys)
            for item in self._get(batch, "id, #t")
            if "text" in item
        }

    def known(self, keys: Iterable[str], pool: ThreadPoolExecutor) -> set[str]:
        """Return which of the keys have a translation, without fetching the texts.

        Args:
            keys: any number of them, all different.
            pool: where to ask; as many batches are in flight as it has threads.
        """
        return {
            item["id"]["S"]
            for items in pool.map(lambda batch: list(self._get(batch, "id, stored_at")), _batches(keys))
            for item in items
            if "stored_at" in item
        }

    def claim(self, keys: Iterable[str], owner: str, seconds: float) -> Claim:
        """Ask for texts before having them translated, or renew what was granted.

        Args:
            keys: any number of them.
            owner: who asks; a name of its own for every invocation.
            seconds: how long the claim holds.
        """
        now = self.now()
        values = {":now": {"N": f"{now:.3f}"}, ":me": {"S": owner}}
        granted: set[str] = set()
        known: dict[str, str] = {}
        held: set[str] = set()
        for batch in _batches(keys):
            items = {
                key: {"id": {"S": key}, "claimed_until": {"N": f"{now + seconds:.3f}"}, "claimed_by": {"S": owner}}
                for key in batch
            }
            taken = self._write(items, _FREE, values)
            granted.update(items.keys() - taken.keys())
            known.update({key: item["text"]["S"] for key, item in taken.items() if "text" in item})
            held.update(key for key, item in taken.items() if "text" not in item)
        return Claim(frozenset(granted), known, frozenset(held))

    def store(self, translations: Mapping[str, str]) -> dict[str, str]:
        """Store translations at once and return those that others had stored first: the first one stays."""
        stored_at = {"N": str(int(self.now()))}
        earlier: dict[str, str] = {}
        for batch in _batches(translations):
            items = {key: {"id": {"S": key}, "text": {"S": translations[key]}, "stored_at": stored_at} for key in batch}
            taken = self._write(items, _NO_TEXT, None)
            earlier.update({key: item["text"]["S"] for key, item in taken.items() if "text" in item})
        return earlier

    def release(self, keys: Iterable[str], owner: str) -> None:
        """Give up claims, so that nobody waits for them."""
        values = {":now": {"N": "0"}, ":me": {"S": owner}}
        for batch in _batches(keys):
            items = {key: {"id": {"S": key}, "claimed_until": {"N": "0"}, "claimed_by": {"S": owner}} for key in batch}
            self._write(items, _FREE, values)

    def _write(
        self, items: Mapping[str, dict[str, Any]], condition: str, values: dict[str, Any] | None
    ) -> dict[str, dict[str, Any]]:
        """Put items under a condition, all of them or all but those that break it, which are returned as they stand."""
        left = dict(items)
        refused: dict[str, dict[str, Any]] = {}
        delay = 0.02
        for _ in range(_TRIES):
            if not left:
                return refused
            keys = list(left)
            actions = [{"Put": self._put(left[key], condition, values)} for key in keys]
            try:
                self.client.transact_write_items(TransactItems=actions)
            except self.client.exceptions.TransactionCanceledException as error:
                reasons = error.response.get("CancellationReasons") or []
                codes = [reason.get("Code") for reason in reasons]
                for key, reason in zip(keys, reasons, strict=False):
                    if reason.get("Code") == "ConditionalCheckFailed":
                        refused[key] = reason.get("Item") or {}
                        del left[key]
                if not set(codes) & ({"ConditionalCheckFailed"} | _PASSING_REASONS):
                    raise
                if _PASSING_REASONS & set(codes):
                    self._wait(delay)
                    delay = min(2 * delay, 2.0)
            except self.client.exceptions.TransactionInProgressException:
                self._wait(delay)
            else:
                return refused
        if left:
            raise PipelineError(
                f"the translation memory (table {self.table}) was too busy to take {len(left)} items after {_TRIES} tries: "
                "start an execution again; what is stored is not paid for again"
            )
        return refused

    def _put(self, item: dict[str, Any], condition: str, values: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "TableName": self.table,
            "Item": item,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": _TEXT,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            **({"ExpressionAttributeValues": values} if values else {}),
        }

    def _get(self, keys: Sequence[str], projection: str) -> Iterator[dict[str, Any]]:
        names = {"ExpressionAttributeNames": _TEXT} if "#t" in projection else {}
        wanted: dict[str, Any] = {
            self.table: {
                "Keys": [{"id": {"S": key}} for key in keys],
                "ProjectionExpression": projection,
                "ConsistentRead": True,
                **names,
            }
        }
        delay = 0.05
        while wanted:
            answer = self.client.batch_get_item(RequestItems=wanted)
            yield from answer["Responses"].get(self.table, ())
            # What a throttled table left out is asked for again.
            wanted = answer.get("UnprocessedKeys") or {}
            if wanted:
                self._wait(delay)
                delay = min(2 * delay, 5.0)

    def _wait(self, seconds: float) -> None:
        self.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(dict.fromkeys(keys))
    while batch := list(islice(iterator, _BATCH)):
        yield batch
