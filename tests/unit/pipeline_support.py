"""Lambdas of the pipeline loaded by path, and stand-ins for the services they call."""

from __future__ import annotations

import importlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from botocore.exceptions import ClientError

from ko_reranker.data.jsonl import dump_line
from ko_reranker.data.store import Store
from ko_reranker.retraining.run import Run

FUNCTIONS = Path(__file__).parents[2] / "lambda"
HANGUL = [chr(code) for code in range(ord("가"), ord("가") + 400)]


def load(function: str, module: str) -> ModuleType:
    """Import a module of a function's folder, with the folder on the path as in its bundle."""
    folder = str(FUNCTIONS / function)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)


class Killed(BaseException):
    """The process is gone: nothing that catches errors sees this one."""


class Machine:
    """What dies: after ``kill`` no call of any client returns any more."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.steps = 0
        self.kill_at = kill_at
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.steps += 1
            if self.kill_at is not None and self.steps >= self.kill_at:
                raise Killed


def pseudo_korean(text: str) -> str:
    """A stand-in translation: Hangul of half the length, numbers kept, line breaks kept, different for different texts."""
    return "\n".join(" ".join(_word(word) for word in line.split(" ")) for line in text.split("\n"))


def _word(word: str) -> str:
    if not word or not any(char.isalpha() for char in word):
        return word
    digits = "".join(char for char in word if char.isdigit())
    return "".join(HANGUL[(ord(char) * 7 + place) % len(HANGUL)] for place, char in enumerate(word[::2])) + digits


class FakeTranslate:
    """TranslateText that keeps the books: what was billed, text by text."""

    def __init__(self, translate: Callable[[str], str] = pseudo_korean, machine: Machine | None = None) -> None:
        self.translate = translate
        self.machine = machine or Machine()
        self.requests: list[str] = []
        self.billed: Counter[str] = Counter()
        self.arguments: list[dict[str, Any]] = []
        self.fault: Callable[[str, int], str | None] = lambda text, number: None
        self.in_flight = 0
        self.most_in_flight = 0
        self._calls = 0
        self._lock = threading.Lock()

    def translate_text(self, *, Text: str, **arguments: Any) -> dict[str, str]:
        self.machine.step()
        with self._lock:
            self._calls += 1
            number = self._calls
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            assert 0 < len(Text.encode()) <= 10_000
            if code := self.fault(Text, number):
                status = 500 if code.startswith(("Internal", "ServiceUn")) else 400
                raise ClientError(
                    {"Error": {"Code": code, "Message": "by the test"}, "ResponseMetadata": {"HTTPStatusCode": status}},
                    "TranslateText",
                )
            with self._lock:
                self.requests.append(Text)
                self.billed.update(Text.split("\n"))
                self.arguments.append(arguments)
            answer = self.translate(Text)
        finally:
            with self._lock:
                self.in_flight -= 1
        self.machine.step()
        return {"TranslatedText": answer}


class OneAtATime:
    """A moto client for many threads: moto rolls a transaction back by copying whole tables, which nobody may change then."""

    def __init__(self, client: Any) -> None:
        self._client, self._lock = client, threading.Lock()
        self.exceptions = client.exceptions

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return method(*args, **kwargs)

        return call


class Table:
    """The DynamoDB calls of the translation memory on a dictionary: quick, and right for threads.

    (moto copies every table for every transaction; the memory's own tests use it nevertheless.)
    """

    class exceptions:
        class TransactionCanceledException(ClientError):
            pass

        class TransactionInProgressException(ClientError):
            pass

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.calls = 0
        self._lock = threading.Lock()

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        ((table, wanted),) = RequestItems.items()
        keys = [key["id"]["S"] for key in wanted["Keys"]]
        assert len(keys) == len(set(keys)) <= 100
        with self._lock:
            self.calls += 1
            return {"Responses": {table: [dict(self.items[key]) for key in keys if key in self.items]}}

    def transact_write_items(self, TransactItems: list[dict[str, Any]]) -> dict[str, Any]:
        assert 0 < len(TransactItems) <= 100
        with self._lock:
            self.calls += 1
            puts = [action["Put"] for action in TransactItems]
            reasons = [self._reason(put) for put in puts]
            if any(reason["Code"] != "None" for reason in reasons):
                raise self.exceptions.TransactionCanceledException(
                    {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}, "TransactWriteItems"
                )
            for put in puts:
                self.items[put["Item"]["id"]["S"]] = put["Item"]
        return {}

    def _reason(self, put: dict[str, Any]) -> dict[str, Any]:
        item = self.items.get(put["Item"]["id"]["S"])
        values = put.get("ExpressionAttributeValues")
        if item is None or ("text" not in item and (values is None or self._free(item, values))):
            return {"Code": "None"}
        return {"Code": "ConditionalCheckFailed", "Item": dict(item)}

    @staticmethod
    def _free(item: dict[str, Any], values: dict[str, Any]) -> bool:
        return float(item["claimed_until"]["N"]) < float(values[":now"]["N"]) or item["claimed_by"] == values[":me"]


class KillableClient:
    """A boto3 client whose calls are steps of a machine that may die before or after each of them."""

    def __init__(self, client: Any, machine: Machine) -> None:
        self._client, self._machine = client, machine
        self.exceptions = client.exceptions

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._machine.step()
            result = method(*args, **kwargs)
            self._machine.step()
            return result

        return call


RUN = Run(
    name="r",
    continues=False,
    job_name="ko-reranker-dev-r",
    dataset="d",
    source_language="en",
    target_language="ko",
    max_translation_usd=50.0,
    dry_run=False,
    formality=None,
    terminology=None,
    dev_fraction=0.3,
    max_rejected_fraction=0.5,
    mine_negatives=True,
    recipe="ko-reranker-v2",
    base_model="hub/base",
    hyperparameters={"recipe": "ko-reranker-v2", "base_model": "hub/base"},
    instance_type="ml.g5.xlarge",
    instance_count=2,
    use_spot=True,
    stopping_condition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
    approval="manual",
)


def a_run(**changes: Any) -> Run:
    """A run, as check_input resolves it for the other functions."""
    return replace(RUN, **changes)


def put_records(store: Store, rows: Iterable[Any], key: str = "raw/d/a.jsonl") -> None:
    store.client.put_object(Bucket=store.bucket, Key=key, Body=b"".join(map(dump_line, rows)))


def put_shard(store: Store, settings: Any, texts: Iterable[str], key: str = "runs/r/shards/00000.jsonl") -> dict[str, Any]:
    """Write a shard of texts and return the event that translates it."""
    store.client.put_object(
        Bucket=store.bucket,
        Key=key,
        Body=b"".join(dump_line({"id": settings.key(text), "text": text}) for text in texts),
    )
    return {"shard": 0, "key": key, "cursor": 0, "counts": {}, "request": a_run().to_json()}
