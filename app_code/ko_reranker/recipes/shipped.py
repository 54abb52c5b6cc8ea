"""The recipes that come with the library, a YAML file each beside this module."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ko_reranker.container import JobError
from ko_reranker.recipes import Recipe, RecipeError, changed


@functools.cache
def recipes() -> Mapping[str, Mapping[str, Any]]:
    """Return the values of each recipe, by its name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


def load_recipe(hyperparameters: Mapping[str, str]) -> Recipe:
    """Return the recipe of a training job.

    Raises:
        JobError: naming the recipe or every field that is wrong, and what is allowed.
    """
    try:
        return changed(recipes(), hyperparameters)
    except RecipeError as error:
        raise JobError(str(error)) from None
