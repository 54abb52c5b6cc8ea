"""The input of the retraining state machine: every field is optional, checked, and echoed with its resolved value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ko_reranker.data.errors import PipelineError
from ko_reranker.instances import INSTANCE_TYPE, refusal
from ko_reranker.languages import find
from ko_reranker.recipes import RecipeError, changed
from ko_reranker.retraining.reach import unreachable
from ko_reranker.retraining.run import Run

# SageMaker names are at most 63 characters, and a job adds at most nine (-eval-0-0) to its run's name.
_JOB_NAME_LENGTH = 54
_RUN = r"[A-Za-z0-9](-?[A-Za-z0-9]){0,53}"
# What the settings' defaults have to be, too.
LANGUAGE = r"[a-z]{2}(-[A-Z]{2})?"
DATASET = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
MOST_DOLLARS = 1_000_000
Formality = Literal["FORMAL", "INFORMAL"]
Approval = Literal["manual", "automatic"]
# What SageMaker takes of a hyperparameter: CreateTrainingJob's HyperParameterKey and HyperParameterValue, whose pattern is .*
_NAME_LENGTH, _VALUE_LENGTH = 256, 2500
_LINE = re.compile(r"[^\n\r\u0085\u2028\u2029]*")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a field is when the input leaves it out, and what the stage fixes; from the settings in cdk.json.

    Attributes:
        bucket: the data bucket, which `base_model` may name as ``{data_bucket}``.
        job_name_prefix: begins every job's name, so that IAM can tell them apart.
        recipes: the values of each recipe in the image, by its name.
        max_training_hours: the longest a training job may run.
        max_instances: the most training instances an input may ask for.
        reaches_the_hub: whether jobs can download from the Hugging Face hub.
    """

    bucket: str
    job_name_prefix: str
    recipes: Mapping[str, Mapping[str, Any]]
    max_training_hours: float
    max_instances: int
    dev_fraction: float
    max_rejected_fraction: float
    dataset: str
    source_language: str
    target_language: str
    max_translation_usd: float
    formality: str | None
    terminology: str | None
    recipe: str
    base_model: str
    instance_type: str
    instance_count: int
    use_spot: bool
    mine_negatives: bool
    approval: str
    reaches_the_hub: bool = True


def resolve(given: Any, execution: str, defaults: Defaults) -> Run:
    """Return the run that the input asks for.

    Args:
        given: the execution input, ``{}`` for all defaults.
        execution: the execution's name, from which the run takes its own.
        defaults: the stage's defaults.

    Raises:
        PipelineError: naming every field that is wrong, at once.
    """
    if not isinstance(given, dict):
        raise PipelineError("the execution input must be a JSON object, for example {}")
    problems: list[str] = []
    unknown = sorted(set(given) - set(_CHECKS))
    if unknown:
        problems.append(f"unknown field {', '.join(unknown)} (known: {', '.join(sorted(_CHECKS))})")
    request: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        value = given.get(name)
        if value is None:
            value = getattr(defaults, name, _FIXED_DEFAULTS.get(name))
        try:
            request[name] = None if value is None else check(value)
        except ValueError as error:
            problems.append(f"{name} {error}")
    if not problems:
        request["base_model"] = request["base_model"].replace("{data_bucket}", defaults.bucket)
        problems += _together(request, defaults)
    if problems:
        raise PipelineError("the execution input is not valid: " + "; ".join(problems))
    own_name = run_name(execution, _JOB_NAME_LENGTH - len(defaults.job_name_prefix))
    # A continued run keeps its folder, and with it its checkpoints; its jobs are new and need names of their own.
    continued = request.pop("continue_run")
    return Run(
        **request | {"hyperparameters": _all_hyperparameters(request)},
        name=continued or own_name,
        continues=continued is not None,
        job_name=f"{defaults.job_name_prefix}{own_name}",
        dev_fraction=defaults.dev_fraction,
        max_rejected_fraction=defaults.max_rejected_fraction,
        stopping_condition=_stopping_condition(defaults.max_training_hours, request["use_spot"]),
    )


def run_name(execution: str, max_length: int) -> str:
    """Return a name of letters, digits and single hyphens, at most ``max_length``, that stands for the execution alone."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", execution).strip("-")
    if name == execution and len(name) <= max_length:
        return name
    digest = hashlib.sha256(execution.encode()).hexdigest()[:8]
    return f"{name[: max_length - 9].rstrip('-')}-{digest}".lstrip("-")


def _stopping_condition(hours: float, use_spot: bool) -> dict[str, int]:
    seconds = int(hours * 3600)
    # With spot instances SageMaker also wants to know how long it may wait for capacity; without them it refuses the field.
    return {"MaxRuntimeInSeconds": seconds} | ({"MaxWaitTimeInSeconds": 2 * seconds} if use_spot else {})


def _together(request: dict[str, Any], defaults: Defaults) -> list[str]:
    problems = []
    if request["instance_count"] > defaults.max_instances:
        problems.append(f"instance_count must be at most {defaults.max_instances} (training.max_instances in cdk.json)")
    try:
        recipe = changed(defaults.recipes, _all_hyperparameters(request))
    except RecipeError as error:
        problems.append(str(error).removesuffix("."))
    else:
        if refused := refusal(request["instance_type"], recipe.precision):
            problems.append(f"instance_type and precision don't go together: {refused}")
    if not defaults.reaches_the_hub and (problem := unreachable(request["base_model"])):
        problems.append(f"base_model {problem}")
    clash = sorted({"recipe", "base_model"} & set(request["hyperparameters"]))
    if clash:
        problems.append(f"{', '.join(clash)} belongs in the input itself, not in hyperparameters")
    return problems


def _all_hyperparameters(request: dict[str, Any]) -> dict[str, str]:
    """Those of the training job: the recipe and the model to start from are hyperparameters like the rest."""
    return {**request["hyperparameters"], "recipe": request["recipe"], "base_model": request["base_model"]}


def _matching(pattern: str, example: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must look like {example}, is {value!r}")
        return value

    return check


def _target_language(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a language's code, is {value!r}")
    return find(value).code


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, is {value!r}")
        return str(value)

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, is {value!r}")
    return value


def _dollars(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST_DOLLARS:
        raise ValueError(f"must be a number of US dollars from 0 to {MOST_DOLLARS}, is {value!r}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"must be a whole number of at least 1, is {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a string, is {value!r}")
    return value.strip()


def _hyperparameters(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be an object of names and values")
    strings = {}
    for name, item in value.items():
        if isinstance(item, bool):
            item = "true" if item else "false"
        if not isinstance(item, (str, int, float)):
            raise ValueError(f"holds {name}, which must be a string, a number or a boolean")
        strings[name] = text = str(item)
        if len(name) > _NAME_LENGTH or len(text) > _VALUE_LENGTH or not _LINE.fullmatch(name + text):
            raise ValueError(
                f"holds {name[:40]!r}: SageMaker takes a name of at most {_NAME_LENGTH} characters and a value of at most "
                f"{_VALUE_LENGTH}, each in one line; this value has {len(text)}"
            )
    return strings


_FIXED_DEFAULTS: dict[str, Any] = {"dry_run": False, "hyperparameters": {}}

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "dataset": _matching(DATASET, "msmarco-2024 (a folder under raw/)"),
    "source_language": _matching(LANGUAGE, "en"),
    "target_language": _target_language,
    "max_translation_usd": _dollars,
    "dry_run": _boolean,
    "formality": _one_of(*get_args(Formality)),
    "terminology": _text,
    "recipe": _text,
    "base_model": _text,
    "hyperparameters": _hyperparameters,
    "instance_type": _matching(INSTANCE_TYPE, "ml.g5.12xlarge"),
    "instance_count": _count,
    "use_spot": _boolean,
    "mine_negatives": _boolean,
    "continue_run": _matching(_RUN, "the name of an earlier run, a folder under runs/"),
    "approval": _one_of(*get_args(Approval)),
}
