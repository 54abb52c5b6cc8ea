"""A recipe: every choice of a training run, checked, and changed by hyperparameters of the same names.

Standard library only: the function that checks an execution's input reads recipes as the training does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from ko_reranker.checked import Limits, read

DEFAULT_RECIPE = "ko-reranker-v2"
# Those of the shipped prompts that ask for an answer about one document.
PromptName = Literal[
    "bge-reranker-v2-gemma", "general-en", "general-ko", "mxbai-rerank-v2", "qwen3-reranker", "qwen3-reranker-evaluation"
]
# Settings of one family alone.
_OF_FAMILIES = {
    "late_interaction": ("temperature", "query_length", "projection_dim", "in_batch_negatives"),
    "generative": (
        *("prompt", "instruction", "binary_weight"),
        *("tuning", "lora_rank", "lora_alpha", "lora_dropout"),
    ),
}


class RecipeError(ValueError):
    """Hyperparameters make no recipe; the sentence names each that is wrong, and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    The effective batch, `batch_queries`, is what one optimiser step sees over all workers together: it stays the same
    whatever the number of workers and `micro_batch_tokens`, which only change how many rounds of accumulation it takes.

    Attributes:
        base_model: hub id, s3:// prefix, folder, or sample:tiny; for a generative one sample:tiny-decoder.
        warmup_fraction: share of the steps over which the learning rate rises.
        batch_queries: queries per optimiser step, over all workers.
        micro_batch_tokens: tokens a worker computes at once, in whole groups; memory goes by it.
        group_size: passages per query: one positive and up to group_size - 1 negatives.
        max_length: tokens per pair; the passage is cut, the query only beyond half.
        gradient_checkpointing: compute layers twice instead of keeping what they gave: less memory.
        distillation_weight: share of the loss that follows a teacher's scores; 0 is none.
        distillation_temperature: of both softmaxes: higher listens more to the order below the top.
        dev_queries: queries of dev.jsonl to evaluate on after each epoch; 0 evaluates on none.
        early_stop_patience: epochs without a better MRR on dev before it stops; 0 never stops.
        instance_usd_per_hour: what one instance costs you, for the run card; 0 is unknown.
        family: how query and passage are read: together, by a cross-encoder, apart, by late interaction (ColBERT), or in a
            prompt, by a generative model.
        temperature: of late interaction, what MaxSim is divided by before the softmax: 0.02 of a mean over the query's tokens,
            1 of a sum.
        query_length: of late interaction, tokens per query; max_length is then what a passage has. None for the length that the
            base's folder names, and for 64 where it names none.
        projection_dim: of late interaction, channels of a token's vector, where the base has no projection yet.
        in_batch_negatives: of late interaction, compare a query with the passages of all queries of the step, over all workers,
            not with its own alone; costs one more forward pass.
        prompt: of generative models, a prompt that comes with the library; None for what the base says that it reads.
        instruction: of generative models, what is asked for; None for the prompt's own.
        binary_weight: of generative models, the share of the loss that asks of each passage by itself whether it is relevant,
            which pins the level of the scores; 0 looks at differences alone.
        tuning: of generative models, whether adapters of low rank are trained and the base stays as it is, or all is trained.
        lora_rank, lora_alpha, lora_dropout: of the adapters; what they add is multiplied by lora_alpha / lora_rank.
    """

    name: str
    base_model: str
    learning_rate: Annotated[float, Limits(above=0, most=1)]
    weight_decay: Annotated[float, Limits(least=0, most=1)]
    warmup_fraction: Annotated[float, Limits(least=0, below=1)]
    epochs: Annotated[float, Limits(above=0, most=1000)]
    batch_queries: Annotated[int, Limits(least=1)]
    micro_batch_tokens: Annotated[int, Limits(least=16)]
    group_size: Annotated[int, Limits(least=2)]
    max_length: Annotated[int, Limits(least=16, most=8192)]
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    max_gradient_norm: Annotated[float, Limits(above=0)]
    distillation_weight: Annotated[float, Limits(least=0, most=1)]
    distillation_temperature: Annotated[float, Limits(above=0)]
    seed: Annotated[int, Limits(least=0, most=2**32 - 1)]
    dev_queries: Annotated[int, Limits(least=0)]
    early_stop_patience: Annotated[int, Limits(least=0)]
    checkpoint_every_steps: Annotated[int, Limits(least=1)]
    log_every_steps: Annotated[int, Limits(least=1)]
    instance_usd_per_hour: Annotated[float, Limits(least=0)]
    family: Literal["cross_encoder", "late_interaction", "generative"] = "cross_encoder"
    temperature: Annotated[float, Limits(above=0)] = 1.0
    query_length: Annotated[int | None, Limits(least=8, most=8192)] = None
    projection_dim: Annotated[int, Limits(least=8, most=4096)] = 128
    in_batch_negatives: bool = False
    prompt: PromptName | None = None
    instruction: str | None = None
    binary_weight: Annotated[float, Limits(least=0, most=1)] = 0.2
    tuning: Literal["lora", "full"] = "lora"
    lora_rank: Annotated[int, Limits(least=1, most=1024)] = 16
    lora_alpha: Annotated[float, Limits(above=0)] = 32.0
    lora_dropout: Annotated[float, Limits(least=0, below=1)] = 0.05


def changed(recipes: Mapping[str, Mapping[str, Any]], hyperparameters: Mapping[str, str]) -> Recipe:
    """Return the recipe that ``recipe`` names, with every other hyperparameter in its field's place.

    Args:
        recipes: the values of each recipe there is, by its name.
        hyperparameters: as CreateTrainingJob takes them, or SageMaker's SDK, which puts quotes around texts. What SageMaker's
            own tools put beside the caller's is passed over.

    Raises:
        RecipeError: naming the recipe or every field that is wrong, and what is allowed.
    """
    overrides = {name: _unquoted(value) for name, value in hyperparameters.items() if not _is_sagemakers(name)}
    name = overrides.pop("recipe", DEFAULT_RECIPE)
    if name not in recipes:
        raise RecipeError(f"There is no recipe {name!r}; there are {', '.join(sorted(recipes))}.")
    known = [field.name for field in fields(Recipe) if field.name != "name"]
    unknown = [repr(name) for name in sorted(set(overrides) - set(known))]
    if unknown:
        raise RecipeError(f"Unknown hyperparameter {', '.join(unknown)}; known are recipe, {', '.join(known)}.")
    try:
        recipe = read(Recipe, {**recipes[name], **overrides, "name": name})
    except ValueError as error:
        raise RecipeError(f"Hyperparameter {error}.") from None
    if problems := contradictions(recipe):
        raise RecipeError(f"Hyperparameters: {'; '.join(problems)}.")
    return recipe


def contradictions(recipe: Recipe) -> list[str]:
    """Return what of a recipe does not go together, a sentence each."""
    problems = []
    if recipe.early_stop_patience and not recipe.dev_queries:
        problems.append("early_stop_patience needs dev_queries: what is not evaluated can't stop the run")
    defaults = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    set_ = [name for name, default in defaults.items() if getattr(recipe, name) != default]
    for family, names in _OF_FAMILIES.items():
        if recipe.family != family and (others := [name for name in set_ if name in names]):
            problems.append(f"{', '.join(others)} is of family {family}, and this one is {recipe.family}: leave it out")
    if recipe.in_batch_negatives and recipe.batch_queries < 2:
        problems.append("in_batch_negatives needs batch_queries of 2 or more: a query alone has nobody else's passages")
    if recipe.tuning == "full" and (others := [name for name in set_ if name.startswith("lora_")]):
        problems.append(f"{', '.join(others)} is of tuning lora, and this one is full: leave it out")
    return problems


def _is_sagemakers(name: str) -> bool:
    """Tell whether a hyperparameter is for SageMaker's own tools: a tuning job and the SDK put theirs beside the caller's."""
    return name.startswith("sagemaker_") or name == "_tuning_objective_metric"


def _unquoted(value: str) -> str:
    """Return a value without the quotes of JSON in which SageMaker's SDK sends a text."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
