"""A retraining's run: its execution input, checked and resolved once, as every later step reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.translation.texts import TranslationSettings


@dataclass(frozen=True, slots=True)
class Run:
    """The resolved execution input.

    Attributes:
        name: the run's, of letters, digits and hyphens; a continued run keeps its own.
        continues: whether a run of this name was planned before and is gone on with.
        job_name: what the names of this execution's jobs begin with: at most 54 of the 63 characters that SageMaker takes.
        dataset: a folder under ``raw/``.
        source_language: of the dataset's texts.
        target_language: of what is trained on, one of `ko_reranker.languages`.
        max_translation_usd: what the translation may cost, US dollars.
        dry_run: whether to stop at the plan.
        formality: FORMAL, INFORMAL, or None for Amazon Translate's own choice.
        terminology: the name of a custom terminology, or None.
        dev_fraction: the share of queries held out, 0 to 1.
        max_rejected_fraction: the share of records that may be rejected, 0 to 1.
        mine_negatives: whether hard negatives are mined.
        recipe: its name in the image.
        base_model: the address of the model to start from.
        hyperparameters: of the training job, recipe and base model among them; SageMaker takes strings alone.
        instance_type: of the training.
        instance_count: of the training.
        use_spot: whether the training takes spot instances.
        stopping_condition: as CreateTrainingJob takes it.
        approval: ``manual`` or ``automatic``.
    """

    name: str
    continues: bool
    job_name: str
    dataset: str
    source_language: str
    target_language: str
    max_translation_usd: float
    dry_run: bool
    formality: str | None
    terminology: str | None
    dev_fraction: float
    max_rejected_fraction: float
    mine_negatives: bool
    recipe: str
    base_model: str
    hyperparameters: Mapping[str, str]
    instance_type: str
    instance_count: int
    use_spot: bool
    stopping_condition: Mapping[str, int]
    approval: str

    @property
    def prefix(self) -> str:
        """The run's folder in the data bucket, without a slash at its end."""
        return f"runs/{self.name}"

    @property
    def translates(self) -> bool:
        """Whether there is anything to translate: where the languages are one, nothing is."""
        return self.source_language != self.target_language

    @property
    def translation(self) -> TranslationSettings:
        """How its texts are translated."""
        return TranslationSettings(self.source_language, self.target_language, self.formality, self.terminology)

    def to_json(self) -> dict[str, Any]:
        """Return the state machine's ``$.request``: the fields, the name as ``run``, and the prefix."""
        row = asdict(self)
        return {"run": row.pop("name"), "prefix": self.prefix, **row}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Run:
        """Return the run that a state machine's ``$.request`` tells; what else stands there is for the states.

        Raises:
            PipelineError: a field is missing.
        """
        given = {**row, "name": row.get("run")}
        missing = [field.name for field in fields(cls) if field.name not in given] + ["run"] * ("run" not in row)
        if missing:
            raise PipelineError(
                f"the request that the state machine hands on lacks {', '.join(missing)}: its first state, Check the input, "
                "belongs to another version. Start a new execution"
            )
        return cls(**{field.name: given[field.name] for field in fields(cls)})
