"""Every setting of a stage, typed and validated once.

A stage's settings are the ``defaults`` of cdk.json, with the stage's own block laid over them, and over that what the command
line says: ``cdk deploy -c stage=prod -c training.instance_count=4``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ko_reranker import languages
from ko_reranker.instances import Dtype, refusal
from ko_reranker.recipes.shipped import recipes
from ko_reranker.retraining.gate import Gate, Requirement

Stage = Literal["local", "dev", "prod"]

InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]


class SettingsError(ValueError):
    """The settings are not valid; the message names every key that is wrong."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _refuse(instance_type: str, precision: str) -> None:
    if problem := refusal(instance_type, precision):
        raise ValueError(problem)


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
    target_language: Annotated[str, AfterValidator(lambda code: languages.find(code).code)]
    """One of ko_reranker.languages, whose rules check, search and mine what comes back."""
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

    @model_validator(mode="after")
    def _computes_in_the_recipe_s_precision(self) -> Training:
        if self.recipe not in recipes():
            raise ValueError(f"recipe must be one of {', '.join(recipes())}, is {self.recipe!r}")
        _refuse(self.instance_type, recipes()[self.recipe]["precision"])
        return self


class MustBeat(_Section):
    """The gate. A row that isn't there, such as deployed before the first release, asks for nothing."""

    none: Requirement
    """No reranker: BM25."""
    base: Requirement
    """The model that the training started from."""
    deployed: Requirement
    """The model that is live."""

    @property
    def asked(self) -> dict[str, Requirement]:
        """What is asked, by row; rows that need not be beaten are left out."""
        rows = {"none": self.none, "base": self.base, "deployed": self.deployed}
        return {name: requirement for name, requirement in rows.items() if requirement.demand != "nothing"}

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

    @property
    def gate(self) -> Gate:
        """What a candidate is measured by."""
        return Gate(self.metric, self.must_beat.asked, self.min_queries)

    @model_validator(mode="after")
    def _computes(self) -> Evaluation:
        _refuse(self.instance_type, "auto")
        return self


class Release(_Section):
    approval: Literal["manual", "automatic"]
    poll_seconds: int = Field(ge=1)
    max_wait_minutes: int = Field(ge=1)


class Server(_Section):
    """The rerank server in the endpoint's containers, see docs/serving.md; null leaves a value to the server itself."""

    precision: Dtype
    max_length: int | None = Field(None, ge=16)
    """Tokens of a query and a document together."""
    max_chunks: int | None = Field(None, ge=1)
    """Chunks that a longer document is read in."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens scored in one step."""
    workers: int | None = Field(None, ge=1)
    """Threads that score side by side on a CPU."""
    max_waiting: int | None = Field(None, ge=0)
    """Requests that may wait for the model."""
    max_waiting_mb: float | None = Field(None, ge=0.001)
    """Megabytes of request bodies held at once."""
    max_queue_tokens: int | None = Field(None, ge=1)
    """Tokens that may wait for the model."""
    request_timeout_seconds: float | None = Field(None, ge=0.1, le=60)
    """How long a caller that doesn't say so is computed for; SageMaker itself gives up after 60. Null: api.deadline_seconds."""
    log_level: Literal["info", "warning", "error"]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of ``ko-reranker serve`` that say what is set here."""
        names = {"precision": "DTYPE", "request_timeout_seconds": "REQUEST_TIMEOUT"}
        values = self.model_dump(exclude_none=True)
        return {f"KO_RERANKER_{names.get(key, key.upper())}": f"{value}" for key, value in values.items()}


class Serving(_Section):
    enabled: bool
    """False until a model has been chosen: an endpoint without one can't start, and an idle GPU costs money."""
    instance_type: InstanceType
    min_instances: int = Field(ge=1)
    max_instances: int = Field(ge=1)
    concurrent_requests_per_instance: float = Field(gt=0)
    """What autoscaling keeps each instance at."""
    startup_timeout_seconds: int = Field(ge=60, le=3600)
    server: Server
    canary: bool
    """Shift one instance's traffic first and roll back on alarms; needs two instances."""

    @model_validator(mode="after")
    def _instances(self) -> Serving:
        if self.max_instances < self.min_instances:
            raise ValueError("max_instances must be at least min_instances")
        if self.canary and self.min_instances < 2:
            raise ValueError("canary needs min_instances of at least 2")
        _refuse(self.instance_type, self.server.precision)
        return self


class Tier(_Section):
    """What a key of a tier may do."""

    rate_per_second: float = Field(gt=0)
    burst: int = Field(ge=1)
    requests_per_month: int = Field(ge=1)
    documents_per_request: int | None = Field(None, ge=1)
    """Documents of one request of such a key; null leaves it at max_documents."""
    documents_per_minute: int | None = Field(None, ge=1)
    """Documents of all requests of one key in a minute, counted in DynamoDB; null counts none."""

    @model_validator(mode="after")
    def _consistent(self) -> Tier:
        most, minute = self.documents_per_request, self.documents_per_minute
        if minute is not None and (most is None or most > minute):
            raise ValueError("documents_per_minute needs a documents_per_request that is not above it")
        return self


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
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.-]+(:\d{1,5})?)$")], ...]
    """Web pages of these origins may call the API from a browser, ["*"] lets all; their users see the key that they send."""
    waf_requests_per_5_minutes: int | None = Field(None, ge=10)
    """Requests of one address past which a web ACL blocks it; null has none."""
    origin_key: int = Field(ge=1)
    """With a rate rule at CloudFront: the number of the secret that CloudFront tells the API. One more rotates it; the one
    before is accepted, too."""
    throttle_rate: float = Field(gt=0)
    """Requests a second of each method, all keys together."""
    throttle_burst: int = Field(ge=1)
    open_throttle_rate: float = Field(5, gt=0)
    """Requests a second of each path that needs no key: /health and /openapi.json."""
    open_throttle_burst: int = Field(10, ge=1)
    tiers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,29}$")], Tier] = Field(min_length=1)
    """Usage plans: a key belongs to one. The key that is made with the stack belongs to the first."""
    max_documents: int = Field(ge=1, le=100_000)
    """Documents of one request."""
    documents_per_call: int = Field(ge=1)
    """Documents of one invocation of the endpoint; a request with more is split."""
    parallel_calls: int = Field(ge=1, le=16)
    """Invocations of one request at the same time."""
    deadline_seconds: float = Field(ge=1, le=25)
    """How long a request may take. The function answers within it, and the endpoint computes nothing for it any longer; API
    Gateway gives up after 29 seconds."""
    memory_mb: int = Field(ge=256, le=10_240)
    """Of the rerank function: 1769 is one CPU."""

    @property
    def rate_rule_at_cloudfront(self) -> bool:
        """Whether the rate rule stands at CloudFront, and the API behind it takes requests from there alone."""
        return self.root == "cloudfront" and self.waf_requests_per_5_minutes is not None

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
    """When somebody has to be told, and who."""

    email: str | None = Field(None, pattern=r"^[^@\s]+@[^@\s]+$")
    """Hears of releases, approvals that wait, failures and alarms; others subscribe to the topic."""
    runbooks: str = Field(pattern=r"^[^\s#]+$")
    """Where docs/runbooks.md can be read, such as its address in your repository: each alarm links its part of it."""
    api_error_percent: float = Field(gt=0, le=100)
    """Share of the requests answered 500 and above, over 5 minutes, past which there is an alarm."""
    api_p95_seconds: float = Field(gt=0, le=29)
    """Seconds that the slowest twentieth of the requests take, past which there is an alarm."""
    model_age_days: int | None = Field(None, ge=1)
    """Days after which the live model counts as stale; null never."""
    monthly_budget_usd: float | None = Field(None, gt=0)
    """What everything tagged with the project may cost a month; alarms at 80 % spent and 100 % expected. Null has no budget."""


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
    def server_environment(self) -> dict[str, str]:
        """The environment of the endpoint's container; its time for a request ends with the API's unless it has its own."""
        return {"KO_RERANKER_REQUEST_TIMEOUT": f"{self.api.deadline_seconds:g}", **self.serving.server.environment}

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
        raise SettingsError(f"stage must be one of {', '.join(stages)}, is {stage!r}")
    merged = _overlay(_overlay({}, blocks.get("defaults", {})), blocks[stage])
    for key, value in context.items():
        section, dot, _ = key.partition(".")
        # Feature flags (@aws-cdk/…) and look-ups have dots, too; only ours begin with one of our sections.
        if (dot and section in Settings.model_fields) or key in ("name", "region"):
            _set(merged, key, value)
    try:
        return Settings.model_validate({**merged, "stage": stage})
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise SettingsError(f"settings of stage {stage} are not valid: " + "; ".join(problems)) from None


def _problem(item: Any) -> str:
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"{key} is missing"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
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
