"""Half a million records through plan, translate and join, with the services stood in for by their latencies.

    python -m benchmarks.pipeline [--records 500000]

Makes English records of MS MARCO's shape (one query, one positive, one negative; about 600 MB) and runs the functions' own code
on them through the ports it uses in AWS: S3 on a folder (20 ms a call), DynamoDB on a dictionary (5 ms), Translate as a
substitution of letters (100 ms). Each function runs in a process of its own, whose peak memory the kernel reports; its disk is
the fullest its temporary folder got. The texts say nothing about translation quality; lengths and repetition are what counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import string
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "pipeline.json"
S3_SECONDS, DYNAMODB_SECONDS, TRANSLATE_SECONDS = 0.020, 0.005, 0.100
LAMBDA_SECONDS = 900
PROCESSES = 2
# As in cdk.json: shards at the same time, requests of one shard at the same time, dollars, quota, bytes of a shard.
SHARDS_AT_ONCE, REQUESTS_IN_FLIGHT, USD, QUOTA, SHARD_BYTES = 10, 8, 15.0, 5_000.0, 512 * 1024
# A dry run is measured by the same code; these are the memory sizes of cdk/stacks/pipeline.py.
CONFIGURED_MB = {"plan": 2048, "translate": 512, "join": 2048}


# ---------------------------------------------------------------- the services


class FolderS3:
    """The calls of an S3 client that the pipeline makes, on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0

    def _path(self, key: str) -> Path:
        self.calls += 1
        time.sleep(S3_SECONDS)
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def get_paginator(self, name: str) -> FolderS3:
        return self

    def paginate(self, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:
        root = self._path(Prefix)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        yield {"Contents": [self._item(path) for path in files]}

    def _item(self, path: Path) -> dict[str, Any]:
        size = path.stat().st_size
        tag = md5(f"{path.name}{size}".encode(), usedforsecurity=False).hexdigest()
        return {"Key": str(path.relative_to(self.folder)), "Size": size, "ETag": f'"{tag}"'}

    def get_object(self, Bucket: str, Key: str) -> dict[str, BinaryIO]:
        return {"Body": self._path(Key).open("rb")}

    def put_object(self, Bucket: str, Key: str, Body: bytes, **_: Any) -> None:
        self._path(Key).write_bytes(Body)

    def upload_file(self, Filename: str, Bucket: str, Key: str) -> None:
        shutil.copyfile(Filename, self._path(Key))

    def download_file(self, Bucket: str, Key: str, Filename: str) -> None:
        shutil.copyfile(self._path(Key), Filename)

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        self._path(Key)
        return {}

    def delete_object(self, Bucket: str, Key: str) -> None:
        self._path(Key).unlink()


class Table:
    """The DynamoDB calls of the translation memory, on a dictionary."""

    class exceptions:
        class TransactionCanceledException(ClientError):
            pass

        class TransactionInProgressException(ClientError):
            pass

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        time.sleep(DYNAMODB_SECONDS)
        ((table, wanted),) = RequestItems.items()
        keys = (key["id"]["S"] for key in wanted["Keys"])
        return {"Responses": {table: [self.items[key] for key in keys if key in self.items]}}

    def transact_write_items(self, TransactItems: list[dict[str, Any]]) -> None:
        time.sleep(DYNAMODB_SECONDS)
        with self._lock:
            items = [action["Put"]["Item"] for action in TransactItems]
            reasons = [
                {"Code": "ConditionalCheckFailed", "Item": old}
                if (old := self.items.get(item["id"]["S"])) and "text" in old
                else {"Code": "None"}
                for item in items
            ]
            if any(reason["Code"] != "None" for reason in reasons):
                raise self.exceptions.TransactionCanceledException(
                    {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}, "TransactWriteItems"
                )
            self.items.update({item["id"]["S"]: item for item in items})


class Translate:
    """TranslateText as every other letter in Hangul: half as many characters, as Korean has."""

    _HANGUL = str.maketrans({letter: chr(0xAC00 + 37 * place) for place, letter in enumerate(string.ascii_letters)})

    def translate_text(self, Text: str, **_: Any) -> dict[str, str]:
        time.sleep(TRANSLATE_SECONDS)
        return {"TranslatedText": "\n".join(line[::2].translate(self._HANGUL) for line in Text.split("\n"))}


# ---------------------------------------------------------------- the data


def make_records(path: Path, count: int) -> None:
    """Write records of MS MARCO's shape: queries of some 35 characters, each once; passages of some 540, some of them often."""
    draw = random.Random(0)  # noqa: S311
    vocabulary = ["".join(draw.choices(string.ascii_lowercase, k=draw.randrange(2, 10))) for _ in range(20_000)]
    sentences = [" ".join(draw.choices(vocabulary, k=draw.randrange(8, 24))).capitalize() + "." for _ in range(40_000)]

    def name(number: int) -> str:
        return "".join(string.ascii_lowercase[number // 26**place % 26] for place in range(5))

    def passage(number: int) -> str:
        own = random.Random(number)  # noqa: S311
        return f"{name(number)} {' '.join(own.choices(sentences, k=own.choice((4, 5, 5, 6, 6, 7))))}"

    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            query = f"what is {name(number)} {' '.join(draw.choices(vocabulary, k=4))}"
            # Some passages answer several queries, and half of the wrong ones are another query's right one.
            positive = draw.randrange(int(0.96 * count))
            negative = draw.randrange(count) if draw.random() < 0.5 else count + draw.randrange(count)
            row = {"id": str(number), "query": query, "pos": [passage(positive)], "neg": [passage(negative)]}
            out.write(json.dumps(row) + "\n")


# ---------------------------------------------------------------- measuring


@contextmanager
def disk_use(folder: Path, figures: dict[str, Any]) -> Iterator[None]:
    """Watch how full a folder gets."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            try:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            except FileNotFoundError:
                continue  # something was deleted meanwhile: look again
            figures["disk_mb"] = max(figures.get("disk_mb", 0), round(size / 1e6))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    over.set()
    watcher.join()


def measured(step: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own and return its figures, with its time, peak memory and disk use."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(step, folder, sender))
    process.start()
    sender.close()
    try:
        figures = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{step.__name__} failed") from None
    process.join()
    return figures


def _measure(step: Callable[[Path], dict[str, Any]], folder: Path, sender: Any) -> None:
    temporary = tempfile.mkdtemp(dir=folder, prefix="tmp-")
    tempfile.tempdir = temporary
    sys.path[:0] = [str(ROOT / "lambda" / name) for name in ("plan", "translate", "join")]
    figures: dict[str, Any] = {}
    with disk_use(Path(temporary), figures):
        began = time.perf_counter()
        figures |= step(folder)
        figures["seconds"] = round(time.perf_counter() - began, 1)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures["cpu_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    figures["peak_mb"] = round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))
    shutil.rmtree(temporary)
    sender.send(figures)


# ---------------------------------------------------------------- the steps


def _run() -> Any:
    from ko_reranker.retraining.run import Run

    return Run(
        name="bench", continues=False, job_name="bench", dataset="bench", source_language="en", target_language="ko",
        max_translation_usd=1e6, dry_run=False, formality=None, terminology=None, dev_fraction=0.02,
        max_rejected_fraction=0.01, mine_negatives=True, recipe="", base_model="", hyperparameters={}, instance_type="",
        instance_count=1, use_spot=False, stopping_condition={}, approval="manual",
    )  # fmt: skip


def _store(folder: Path) -> Any:
    from ko_reranker.data.store import Store

    return Store(FolderS3(folder / "bucket"), "bucket")


def plan_step(folder: Path) -> dict[str, Any]:
    from planning import Limits, Prices, plan

    from ko_reranker.data.translation.memory import TranslationMemory

    prices = Prices(USD, QUOTA, SHARD_BYTES)
    memory = TranslationMemory(Table(), "memory")
    return plan(_run(), _store(folder), memory, prices, lambda: 10**6, Limits(records=10**8, gigabytes=100.0))


def translate_shards(folder: Path, shards: list[dict[str, Any]], at_once: int) -> dict[str, int]:
    """Translate shards, some at the same time, and return their counts together."""
    from translation import Effort, translate_shard

    from ko_reranker.data.translation.memory import TranslationMemory

    effort = Effort(concurrency=REQUESTS_IN_FLIGHT)

    def one(shard: dict[str, Any]) -> Counter[str]:
        event = {**shard, "cursor": 0, "counts": {}, "request": _run().to_json()}
        memory = TranslationMemory(Table(), "memory")  # a text has one owner: shards share nothing
        return Counter(translate_shard(event, _store(folder), memory, Translate(), effort, lambda: 10**6)["counts"])

    total: Counter[str] = Counter()
    with ThreadPoolExecutor(at_once) as pool:
        for counts in pool.map(one, shards):
            total += counts
    return dict(total)


def _shards(folder: Path) -> list[dict[str, Any]]:
    return list(_store(folder).rows("runs/bench/shards/index.jsonl"))


def translate_even(folder: Path) -> dict[str, Any]:
    return translate_shards(folder, _shards(folder)[::2], SHARDS_AT_ONCE // PROCESSES)


def translate_odd(folder: Path) -> dict[str, Any]:
    return translate_shards(folder, _shards(folder)[1::2], SHARDS_AT_ONCE // PROCESSES)


def translate_one(folder: Path) -> dict[str, Any]:
    return translate_shards(folder, _shards(folder)[:1], 1)


def join_step(folder: Path) -> dict[str, Any]:
    from joining import join

    return join(_run(), _store(folder))


# ---------------------------------------------------------------- all of it


def run(folder: Path, records: int) -> dict[str, Any]:
    """Run every step and return the figures."""
    data = folder / "bucket" / "raw" / "bench" / "records.jsonl"
    data.parent.mkdir(parents=True)
    print(f"making {records:,} records in {folder}", flush=True)
    make_records(data, records)
    print(f"{data.stat().st_size / 1e6:.0f} MB; plan", flush=True)
    plan = measured(plan_step, folder)
    print(f"plan: {plan['seconds']} s, {plan['peak_mb']} MB. {plan['message']}", flush=True)
    one = measured(translate_one, folder)
    began = time.perf_counter()
    with ThreadPoolExecutor(PROCESSES) as pool:
        halves = list(pool.map(lambda step: measured(step, folder), (translate_even, translate_odd)))
    seconds = time.perf_counter() - began
    total = sum((Counter({k: v for k, v in half.items() if isinstance(v, int)}) for half in halves), Counter[str]())
    print(f"translate: {seconds:.0f} s for {total['translated']:,} texts in {total['requests']:,} requests", flush=True)
    joined = measured(join_step, folder)
    print(f"join: {joined['seconds']} s, {joined['peak_mb']} MB, {joined['disk_mb']} MB of disk", flush=True)
    if joined["train"] + joined["dev"] + joined["duplicates"] != records or joined["rejected"]:
        raise SystemExit(f"records were lost: {joined}")
    characters_per_second = total["billed_characters"] / seconds
    return {
        "records": records,
        "dataset_mb": round(data.stat().st_size / 1e6),
        "peak_mb": max(plan["peak_mb"], one["peak_mb"], joined["peak_mb"]),
        "plan_records_per_s": round(records / plan["seconds"]),
        "join_records_per_s": round(records / joined["seconds"]),
        "distinct_share": round(plan["distinct_texts"] / plan["texts"], 4),
        "requests_per_1000_texts": {
            "packed": round(1000 * total["requests"] / total["translated"], 1),
            "one_by_one": 1000.0,
        },
        "characters": plan["characters"],
        "characters_saved_by_dedupe": plan["characters"] - plan["distinct_characters"],
        "usd_saved_by_dedupe": round((plan["characters"] - plan["distinct_characters"]) / 1e6 * USD),
        "usd": plan["usd"],
        "hours_at_the_quota": round(plan["expected_seconds"] / 3600, 1),
        "translate_characters_per_s": round(characters_per_second),
        "functions": {
            name: {key: row[key] for key in ("seconds", "cpu_seconds", "peak_mb", "disk_mb") if key in row}
            | {"configured_mb": CONFIGURED_MB[name], "share_of_15_minutes": round(row["seconds"] / LAMBDA_SECONDS, 3)}
            for name, row in {"plan": plan, "translate": one, "join": joined}.items()
        },
        "translate_all_shards_seconds": round(seconds),
        "shards": plan["shards"],
        "injected_ms": {"s3": 1e3 * S3_SECONDS, "dynamodb": 1e3 * DYNAMODB_SECONDS, "translate": 1e3 * TRANSLATE_SECONDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--records", type=int, default=500_000, help="fewer for a quick look, which is not written")
    parser.add_argument("--folder", type=Path, help="where 5 GB are free (default: the system's temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="pipeline-") as folder:
        figures = run(Path(folder), arguments.records)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version()},
        "figures": figures,
        "ratios": {
            "requests_packed_vs_one_by_one": round(1000 / figures["requests_per_1000_texts"]["packed"], 1),
            "throughput_vs_quota": round(figures["translate_characters_per_s"] / QUOTA, 1),
        },
    }
    print(json.dumps(result, indent=2))
    if arguments.records == parser.get_default("records"):
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
