"""What a model's folder records, read into dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ko_reranker.problems import problems_of
from ko_reranker.rankers.folders import SETTINGS_FILE, ModelFolder


def parsed(source: ModelFolder, kind: Any, values: Any, where: str) -> Any:
    """Return a dataclass of values from a file of a folder.

    Args:
        source: the folder.
        kind: the dataclass.
        values: as JSON has them.
        where: what the values are called, such as ``a config_sentence_transformers.json``.

    Raises:
        RankerError: naming what does not do, and where.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        problem = problems_of(error)[0]
        if problem.is_unknown:
            raise source.refused(f"has {where} with {problem.at}, which this version does not know: update it.") from None
        whole = f"it = {problem.value!r}: {problem.reason}"
        raise source.refused(f"has {where} with {problem if problem.path else whole}.") from None


def own_settings(source: ModelFolder, kind: Any, recorded: Mapping[str, Any], key: str) -> Any:
    """Return a dataclass of what our own file, reranker.json, has under a key; where it has nothing, of the defaults.

    Raises:
        RankerError: as `parsed` does.
    """
    values = recorded.get(key)
    return parsed(source, kind, {} if values is None else values, f"{key} in its {SETTINGS_FILE}")
