"""What the distributed map wrote about its failed children, in one sentence."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ko_reranker.data.store import Store


def explain(prefix: str, error: dict[str, str], store: Store) -> str:
    """Return how many shards of a run failed, and the most frequent reason.

    Args:
        prefix: the run's prefix; the map's results lie under ``<prefix>/map/``.
        error: what the map failed with, which is all there is when it failed before any shard ran.
    """
    results = [item.key for item in store.objects(f"{prefix}/map/")]
    failed = [child for key in results if "/FAILED_" in key for child in store.read_json(key)]
    where = store.uri(f"{prefix}/map/")
    if not failed:
        return f"the translation stopped before a shard could say why: {_reason(error)}"
    reason, _ = Counter(map(_reason, failed)).most_common(1)[0]
    return f"{len(failed)} shards failed, more than translation.tolerated_failure_percentage allows: {reason} (all in {where})"


def _reason(child: dict[str, Any]) -> str:
    cause = child.get("Cause") or child.get("Error") or "no reason given"
    try:
        return str(json.loads(cause)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return cause
