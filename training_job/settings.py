"""A recipe: every choice of a training run, typed, validated, and changed by hyperparameters of the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ko_reranker.container import JobError

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "ko-reranker-v2"


class Recipe(BaseModel):
    """The settings of a training run.

    The effective batch, `batch_queries`, is what one optimiser step sees over all workers together: it stays the same
    whatever the number of workers and `micro_batch_tokens`, which only change how many rounds of accumulation it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    base_model: str = Field(min_length=1, description="hub id, s3:// prefix, folder, or sample:tiny")
    learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=1)
    warmup_fraction: float = Field(ge=0, lt=1, description="share of the steps over which the learning rate rises")
    epochs: float = Field(gt=0, le=1000)
    batch_queries: int = Field(ge=1, description="queries per optimiser step, over all workers")
    micro_batch_tokens: int = Field(ge=16, description="tokens a worker computes at once, in whole groups; memory goes by it")
    group_size: int = Field(ge=2, description="passages per query: one positive and up to group_size - 1 negatives")
    max_length: int = Field(ge=16, le=8192, description="tokens per pair; the passage is cut, the query is not")
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_checkpointing: bool = Field(description="compute layers twice instead of keeping what they gave: less memory")
    max_gradient_norm: float = Field(gt=0)
    distillation_weight: float = Field(ge=0, le=1, description="share of the loss that follows a teacher's scores; 0 is none")
    distillation_temperature: float = Field(
        gt=0, description="of both softmaxes: higher listens more to the order below the top"
    )
    seed: int = Field(ge=0)
    dev_queries: int = Field(ge=0, description="queries of dev.jsonl to look at after each epoch; 0 looks at none")
    early_stop_patience: int = Field(ge=0, description="epochs without a better MRR on dev before it stops; 0 never stops")
    checkpoint_every_steps: int = Field(ge=1)
    log_every_steps: int = Field(ge=1)
    instance_usd_per_hour: float = Field(ge=0, description="what one instance costs you, for the run card; 0 is unknown")


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(hyperparameters: Mapping[str, str]) -> Recipe:
    """Return the recipe that ``recipe`` names, with every other hyperparameter in its field's place.

    Raises:
        JobError: naming the recipe or the field that is wrong, and what is allowed.
    """
    overrides = dict(hyperparameters)
    name = overrides.pop("recipe", DEFAULT_RECIPE)
    if name not in recipe_names():
        raise JobError(f"There is no recipe {name!r}; there are {', '.join(recipe_names())}.")
    fields = [field for field in Recipe.model_fields if field != "name"]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise JobError(f"Unknown hyperparameter {unknown[0]!r}; known are recipe, {', '.join(fields)}.")
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        recipe = Recipe(**(values | overrides | {"name": name}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "recipe"
        raise JobError(f"Hyperparameter {field} = {first['input']!r}: {first['msg']}.") from None
    if recipe.early_stop_patience and not recipe.dev_queries:
        raise JobError("early_stop_patience needs dev_queries: what is not looked at can't stop the run.")
    return recipe
