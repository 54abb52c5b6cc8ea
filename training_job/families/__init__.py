"""The families of rankers that are trained, a module each.

The loop draws records, packs, accumulates, clips, evaluates on dev, checkpoints and resumes alike for all of them; what differs
is `training_job.loop.family.TrainedFamily`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

import torch

from ko_reranker.rankers.folders import FAMILY, GENERATIVE, LATE_INTERACTION
from ko_reranker.recipes import Recipe
from training_job.loop.family import TrainedFamily

_MODULES = {
    FAMILY: "cross_encoder:CrossEncoder",
    LATE_INTERACTION: "late_interaction:LateInteraction",
    GENERATIVE: "generative:GenerativeReranker",
}


def load_family(folder: Path, recipe: Recipe, device: torch.device) -> TrainedFamily:
    """Load a model of the recipe's family, as `TrainedFamily.load` does."""
    module, _, name = _MODULES[recipe.family].partition(":")
    family = cast(type[TrainedFamily], getattr(importlib.import_module(f"{__name__}.{module}"), name))
    return family.load(folder, recipe, device)
