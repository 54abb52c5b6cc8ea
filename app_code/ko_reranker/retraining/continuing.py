"""Going on with an earlier run: what has to be as it was, or its dataset and its checkpoints would be of two kinds.

The run's folder holds what was planned: it is compared before anything there is written over. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.store import Store, StoredObject
from ko_reranker.retraining.run import Run

# Hyperparameters that change how a training is computed and told, not what comes out.
FREE_HYPERPARAMETERS = frozenset(
    {"micro_batch_tokens", "gradient_checkpointing", "checkpoint_every_steps", "log_every_steps", "instance_usd_per_hour"}
)
# Of the run: what the dataset is made of, and what the training learns from it.
_SETTINGS = (
    "dataset",
    "source_language",
    "target_language",
    "formality",
    "terminology",
    "dev_fraction",
    "mine_negatives",
    "recipe",
    "base_model",
)
_ADVICE = "Start a new execution without continue_run (what is translated is not paid for again)"


def check_continuation(run: Run, sources: Iterable[StoredObject], store: Store) -> None:
    """Refuse to plan a run anew that was another one; the first plan of a run passes.

    Args:
        run: the run as it is to go on.
        sources: the objects of its dataset.
        store: the data bucket.

    Raises:
        PipelineError: naming every setting that differs, the first object that does, or the run that isn't there.
    """
    key = f"{run.prefix}/plan.json"
    if not any(item.key == key for item in store.objects(key)):
        if run.continues:
            raise PipelineError(f"there is no run {run.name} to go on with: {store.uri(key)} does not exist. {_ADVICE}")
        return
    planned = store.read_json(key)
    differences = _differences(planned["request"], run.to_json())
    if differences:
        raise PipelineError(
            f"the run in {store.uri(run.prefix)}/ was planned otherwise: {'; '.join(differences)}. Nothing of it was "
            f"changed. Go on with it by its own input, or: {_ADVICE[0].lower()}{_ADVICE[1:]}"
        )
    # A first plan that is made a second time, its function having died, takes the objects as they are now.
    if run.continues and (changed := changed_source(sources, planned["sources"])):
        raise PipelineError(
            f"{store.uri(changed)} was added, removed or changed since the run in {store.uri(run.prefix)}/ was planned, "
            f"of which nothing was changed. {_ADVICE}"
        )


def changed_source(sources: Iterable[StoredObject], planned: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the key of an object that isn't what it was when its run was planned; None when all are."""
    before = {row["key"]: row["etag"] for row in planned}
    changed = sorted(before.items() ^ {item.key: item.etag for item in sources}.items())
    return changed[0][0] if changed else None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs; a setting that only one side knows came with another release and tells nothing."""
    pairs = {name: (before[name], now[name]) for name in _SETTINGS if name in before and name in now}
    sides = before.get("hyperparameters", {}), now.get("hyperparameters", {})
    for name in sorted({*sides[0], *sides[1]} - FREE_HYPERPARAMETERS - pairs.keys()):
        pairs[name] = sides[0].get(name), sides[1].get(name)
    return [
        f"{name} is {_shown(there)} there and {_shown(here)} here" for name, (there, here) in pairs.items() if there != here
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
