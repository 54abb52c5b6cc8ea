"""Planning a translation: distinct texts, shards, characters and dollars.

Texts are sharded by the hash of the text, not by record, so that a text that occurs in many records has one owner: no two
shards translate the same text, and none is paid for twice.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_reranker.data.jsonl import dump_line, read_lines
from ko_reranker.data.memory import TranslationMemory, TranslationSettings
from ko_reranker.data.records import RecordError
from ko_reranker.data.store import Store, StoredObject

# A Lambda may hold 1,024 files open, and every shard is one while the plan is made.
_MAX_SHARDS = 500
# JSON Lines of prose shrink to about a quarter.
_GZIP_RATIO = 4


@dataclass(frozen=True, slots=True)
class Prices:
    """What Amazon Translate costs and yields in this account.

    Attributes:
        usd_per_million_characters: the price of the account's region.
        characters_per_second: the account's quota, for the expected duration.
        shard_bytes: about how many bytes of text one shard holds.
    """

    usd_per_million_characters: float
    characters_per_second: float
    shard_bytes: int


def plan(request: dict[str, Any], store: Store, memory: TranslationMemory, prices: Prices) -> dict[str, Any]:
    """Write the shards and ``plan.json`` of a run and return the plan's figures.

    Raises:
        PipelineError: when the dataset has no objects.
    """
    sources = store.datasets(f"raw/{request['dataset']}/")
    counts: Counter[str] = Counter()
    shards: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if request["translate"]:
            paths = _write_shards(request, sources, store, Path(folder), prices.shard_bytes, counts)
            shards = _upload_shards(request, paths, store, memory, counts)
        else:
            _count_records(sources, store, counts)
    usd = counts["characters_to_translate"] / 1e6 * prices.usd_per_million_characters
    figures = {
        "records": counts["records"],
        "rejected_records": counts["rejected_records"],
        "texts": counts["texts"],
        "distinct_texts": counts["distinct_texts"],
        "known_texts": counts["known_texts"],
        "characters": counts["characters"],
        "characters_to_translate": counts["characters_to_translate"],
        "requests": counts["distinct_texts"] - counts["known_texts"],
        "usd": round(usd, 4),
        "expected_seconds": round(counts["characters_to_translate"] / prices.characters_per_second),
        "shards": len(shards),
        "shards_key": f"{request['prefix']}/shards/index.jsonl",
        "within_budget": usd <= request["max_translation_usd"],
    }
    figures["message"] = _message(request, figures)
    details = {"request": request, "sources": [{"key": s.key, "bytes": s.size, "etag": s.etag} for s in sources]}
    store.write_json(f"{request['prefix']}/plan.json", figures | details)
    return figures


def _write_shards(
    request: dict[str, Any],
    sources: list[StoredObject],
    store: Store,
    folder: Path,
    shard_bytes: int,
    counts: Counter[str],
) -> list[Path]:
    settings = TranslationSettings.of(request)
    size = sum(item.size * (_GZIP_RATIO if item.key.endswith(".gz") else 1) for item in sources)
    paths = [folder / f"{index:05d}.jsonl" for index in range(min(max(1, -(-size // shard_bytes)), _MAX_SHARDS))]
    seen: set[bytes] = set()
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for item in sources:
            for _, record in store.records(item.key):
                if isinstance(record, RecordError):
                    counts["rejected_records"] += 1
                    continue
                counts["records"] += 1
                for text in record.texts():
                    counts["texts"] += 1
                    key = settings.key(text)
                    digest = bytes.fromhex(key)[:16]
                    if digest in seen:
                        continue
                    seen.add(digest)
                    counts["distinct_texts"] += 1
                    counts["characters"] += len(text)
                    files[int(key[:8], 16) % len(files)].write(dump_line({"id": key, "text": text}))
    return [path for path in paths if path.stat().st_size]


def _upload_shards(
    request: dict[str, Any], paths: list[Path], store: Store, memory: TranslationMemory, counts: Counter[str]
) -> list[dict[str, Any]]:
    shards = []
    for number, path in enumerate(paths):
        with path.open("rb") as stream:
            lengths = {row["id"]: len(row["text"]) for row in (json.loads(line) for _, line in read_lines(stream, path.name))}
        known = memory.known(lengths)
        counts["known_texts"] += len(known)
        counts["characters_to_translate"] += sum(length for key, length in lengths.items() if key not in known)
        key = f"{request['prefix']}/shards/{path.name}"
        store.upload(path, key)
        shards.append({"shard": number, "key": key, "texts": len(lengths)})
    index = (paths[0].parent if paths else Path(tempfile.gettempdir())) / "index.jsonl"
    index.write_bytes(b"".join(dump_line(shard) for shard in shards))
    store.upload(index, f"{request['prefix']}/shards/index.jsonl")
    return shards


def _count_records(sources: list[StoredObject], store: Store, counts: Counter[str]) -> None:
    for item in sources:
        for _, record in store.records(item.key):
            counts["rejected_records" if isinstance(record, RecordError) else "records"] += 1


def _message(request: dict[str, Any], figures: dict[str, Any]) -> str:
    if not request["translate"]:
        return f"{figures['records']} records are in {request['target_language']} already: nothing to translate"
    estimate = (
        f"{figures['distinct_texts']} distinct texts in {figures['records']} records, {figures['known_texts']} of them known "
        f"already; {figures['characters_to_translate']} characters to translate cost about ${figures['usd']:.2f}"
    )
    if figures["within_budget"]:
        return estimate
    return (
        f"{estimate}, more than max_translation_usd allows (${request['max_translation_usd']:.2f}): "
        "raise it in the execution input, or take a smaller dataset"
    )
