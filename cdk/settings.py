"""Every setting of a stage, typed and validated once.

A stage's settings are the ``defaults`` of cdk.json, with the stage's own block laid over them, and over that what the command
line says: ``cdk deploy -c stage=prod -c training.instance_count=4``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Stage = Literal["local", "dev", "prod"]

InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]


class SettingsError(ValueError):
    """The settings are not valid; the message names every key that is wrong."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(_Section):
    """The container image of jobs and endpoint."""

    uri: str | None = None
    """An image in your registry; null builds one from this repository in CodeBuild during the deploy."""


class Data(_Section):
    retain: bool
    """Keep buckets, tables and key when the stack is deleted."""
    run_days: int = Field(ge=1)
    """Days until the files of a run (dataset, checkpoints, report) expire; its model stays."""
    noncurrent_days: int = Field(ge=1)
    """Days until an overwritten or deleted object is gone for good."""


class Translation(_Section):
    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The folder under raw/ that a run takes by default."""
    source_language: str = Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")
    target_language: str = Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$")
    max_translation_usd: float = Field(ge=0)
    """A run whose translation costs more stops before it spends anything."""
    formality: Literal["FORMAL", "INFORMAL"] | None = None
    terminology: str | None = None
    usd_per_million_characters: float = Field(gt=0)
    characters_per_second: float = Field(gt=0)
    """The account's throughput, for the expected duration in the plan."""
    shard_kilobytes: int = Field(ge=1, le=65_536)
    """Source text one Lambda invocation owns."""
    max_concurrency: int = Field(ge=1, le=1_000)
    """Shards translated at the same time."""
    requests_in_flight: int = Field(ge=1, le=64)
    """Translate requests of one shard at the same time."""
    tolerated_failure_percentage: float = Field(ge=0, le=100)
    """Shards that may fail; every record they touch is quarantined and max_rejected_fraction decides."""
    max_rejected_fraction: float = Field(ge=0, le=1)
    dev_fraction: float = Field(gt=0, lt=1)
    """Share of the queries held out for evaluation."""


class Mining(_Section):
    """Hard negatives for training; training.mine_negatives turns it off."""

    negatives: int = Field(ge=1, le=100)
    """Negatives per record in the end."""
    rank_from: int = Field(ge=1)
    """First BM25 rank to draw from; the very first are often unmarked answers."""
    rank_to: int = Field(ge=1, le=10_000)
    max_overlap: float = Field(gt=0, le=1)
    """Share of character 4-grams in common with a positive from which on a passage is no negative."""
    teacher: str | None = Field(default=None, min_length=1)
    """A reranker (hub id or s3:// URI) that judges the candidates, too; null for none."""
    teacher_margin: float = Field(ge=0)
    """How far below the worst positive's the teacher's logit of a negative must lie."""

    @model_validator(mode="after")
    def _in_order(self) -> Mining:
        if self.rank_to < self.rank_from:
            raise ValueError("rank_to must not be below rank_from")
        return self


class Training(_Section):
    recipe: str
    base_model: str = Field(min_length=1)
    """A hub id, an s3:// URI or a path in the image; {data_bucket} stands for the data bucket's name."""
    instance_type: InstanceType
    instance_count: int = Field(ge=1)
    max_instances: int = Field(ge=1)
    """The most an execution input may ask for."""
    volume_gb: int = Field(ge=1)
    max_hours: float = Field(gt=0, le=120)
    use_spot: bool
    mine_negatives: bool


class Requirement(_Section):
    """What is asked of a candidate against one row of the evaluation, by their paired difference query by query."""

    demand: Literal["nothing", "not_below", "above", "clearly_above"]
    """not_below: not worse beyond noise, the 95 % interval's upper end reaches the margin; above: the mean exceeds it;
    clearly_above: the interval's lower end does."""
    margin: float = Field(0.0, ge=-1, le=1)
    """The difference asked for; negative allows for a loss."""


class MustBeat(_Section):
    """The gate. A row that isn't there, such as deployed before the first release, asks for nothing."""

    none: Requirement
    """No reranker: BM25."""
    base: Requirement
    """The model that the training started from."""
    deployed: Requirement
    """The model that is live."""

    @property
    def asked(self) -> dict[str, dict[str, Any]]:
        """What is asked, by row; rows that need not be beaten are left out."""
        return {name: asked for name, asked in self.model_dump().items() if asked["demand"] != "nothing"}

    @model_validator(mode="after")
    def _something(self) -> MustBeat:
        if not self.asked:
            raise ValueError("one of none, base and deployed must be asked for something")
        return self


class Evaluation(_Section):
    instance_type: InstanceType
    volume_gb: int = Field(ge=1)
    max_hours: float = Field(gt=0, le=120)
    first_stage: Literal["morphemes", "morphemes+bigrams"]
    """The BM25 that finds the candidates, and that is the row `none`."""
    candidates_per_query: int = Field(ge=2)
    """Passages of the dev split that the first stage finds for each query."""
    metric: Literal[
        "mrr", "mrr@10", "ndcg@10", "recall@5", "recall@10", "recall@20",
        "has_right@1", "has_right@2", "has_right@3", "has_right@5", "has_right@10",
    ]  # fmt: skip
    """What the gate judges by."""
    min_queries: int = Field(ge=1)
    """With fewer queries in the dev split nothing is released: hardly anything is below another beyond noise there."""
    must_beat: MustBeat


class Release(_Section):
    approval: Literal["manual", "automatic"]
    poll_seconds: int = Field(ge=1)
    max_wait_minutes: int = Field(ge=1)


class Serving(_Section):
    enabled: bool
    """False until a model has been chosen: an endpoint without one can't start, and an idle GPU costs money."""
    instance_type: InstanceType
    min_instances: int = Field(ge=1)
    max_instances: int = Field(ge=1)
    concurrent_requests_per_instance: float = Field(gt=0)
    """What autoscaling keeps each instance at."""
    startup_timeout_seconds: int = Field(ge=60, le=3600)
    canary: bool
    """Shift one instance's traffic first and roll back on alarms; needs two instances."""

    @model_validator(mode="after")
    def _instances(self) -> Serving:
        if self.max_instances < self.min_instances:
            raise ValueError("max_instances must be at least min_instances")
        if self.canary and self.min_instances < 2:
            raise ValueError("canary needs min_instances of at least 2")
        return self


class Tier(_Section):
    """What a key of a tier may do."""

    rate_per_second: float = Field(gt=0)
    burst: int = Field(ge=1)
    requests_per_month: int = Field(ge=1)


class Api(_Section):
    root: Literal["cloudfront", "custom_domain", "none"]
    """How the API gets a URL without a stage in its path, which clients need that replace the path of their base URL."""
    domain_name: str | None = Field(None, pattern=r"^([a-z0-9-]+\.)+[a-z]{2,}$")
    """Of root custom_domain: the API's host."""
    certificate_arn: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:acm:")
    """Of root custom_domain: its certificate, in the stage's region."""
    hosted_zone_id: str | None = None
    """Of root custom_domain: the Route 53 zone that gets the record; null when the record is made elsewhere."""
    private: bool
    """Reachable from the VPC endpoints below only, and not from the internet."""
    vpc_endpoint_ids: tuple[str, ...]
    waf_requests_per_5_minutes: int | None = Field(None, ge=10)
    """Requests of one address past which a web ACL blocks it; null has none."""
    throttle_rate: float = Field(gt=0)
    """Requests a second of the whole API, all keys together."""
    throttle_burst: int = Field(ge=1)
    tiers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,29}$")], Tier] = Field(min_length=1)
    """Usage plans: a key belongs to one. The key that is made with the stack belongs to the first."""
    max_documents: int = Field(ge=1, le=100_000)
    """Documents of one request."""
    documents_per_call: int = Field(ge=1)
    """Documents of one invocation of the endpoint; a request with more is split."""
    parallel_calls: int = Field(ge=1, le=16)
    """Invocations of one request at the same time."""
    memory_mb: int = Field(ge=256, le=10_240)
    """Of the rerank function: 1769 is one CPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Api:
        if self.root == "custom_domain" and not (self.domain_name and self.certificate_arn):
            raise ValueError("root custom_domain needs domain_name and certificate_arn")
        if self.private and self.root != "none":
            raise ValueError("a private API needs root none: CloudFront and public domains can't reach it")
        if self.private and not self.vpc_endpoint_ids:
            raise ValueError("a private API needs vpc_endpoint_ids")
        return self


class Alerts(_Section):
    email: str | None = Field(None, pattern=r"^[^@\s]+@[^@\s]+$")


class Settings(_Section):
    """All of a stage's settings; see README.md for what each is for."""

    stage: Stage
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{1,19}$")
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    image: Image
    data: Data
    translation: Translation
    mining: Mining
    training: Training
    evaluation: Evaluation
    release: Release
    serving: Serving
    api: Api
    alerts: Alerts

    @property
    def prefix(self) -> str:
        """What begins the name of everything of this stage, such as ``ko-reranker-prod``."""
        return f"{self.name}-{self.stage}"


def load_settings(context: Mapping[str, Any]) -> Settings:
    """Build the settings of the stage that a CDK context names.

    Args:
        context: the app's context, cdk.json and ``-c`` together: ``stage``, ``settings``, and dotted overrides.

    Raises:
        SettingsError: naming every key that is unknown or has a value that does not do.
    """
    blocks = context.get("settings")
    if not isinstance(blocks, Mapping):
        raise SettingsError("cdk.json has no 'settings' in its context")
    stages = [name for name in blocks if name != "defaults"]
    stage = context.get("stage")
    if stage not in stages:
        raise SettingsError(f"stage must be one of {', '.join(stages)}, is {stage!r}: name it with -c stage=prod")
    merged = _overlay(_overlay({}, blocks.get("defaults", {})), blocks[stage])
    for key, value in context.items():
        section, dot, _ = key.partition(".")
        # Feature flags (@aws-cdk/…) and look-ups have dots, too; only ours begin with one of our sections.
        if (dot and section in Settings.model_fields) or key in ("name", "region"):
            _set(merged, key, value)
    try:
        return Settings(stage=stage, **merged)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise SettingsError(f"settings of stage {stage} are not valid: " + "; ".join(problems)) from None


def _problem(item: Any) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"{key} is missing"
    if item["type"] == "extra_forbidden":
        return f"{key} is not a setting"
    return f"{key}: {item['msg']}" + ("" if isinstance(item["input"], dict) else f" (is {item['input']!r})")


def _overlay(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        below[key] = _overlay(dict(below.get(key) or {}), value) if isinstance(value, Mapping) else value
    return below


def _set(settings: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise SettingsError(f"{dotted}: {section} is not a group of settings")
    if isinstance(value, str):
        try:
            value = json.loads(value)  # -c gives strings: numbers, booleans, null and lists are meant as such
        except ValueError:
            pass
    settings[key] = value
