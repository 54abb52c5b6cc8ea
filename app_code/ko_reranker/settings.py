"""Every setting of a stage, typed and validated once.

A stage's settings are the ``defaults`` of cdk.json, with the stage's own block laid over them, and over that what the command
line says: ``cdk deploy -c stage=prod -c training.instance_count=4``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import date
from ipaddress import IPv4Network
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ko_reranker import languages
from ko_reranker.cron import Cron, share_between
from ko_reranker.data.errors import PipelineError
from ko_reranker.instances import INSTANCE_TYPE, Dtype, refusal
from ko_reranker.problems import Problem, problems_of
from ko_reranker.recipes.shipped import recipes
from ko_reranker.retraining.execution_input import DATASET, LANGUAGE, MOST_DOLLARS, Approval, Defaults, Formality, resolve
from ko_reranker.retraining.gate import Gate, Requirement
from ko_reranker.retraining.reach import unreachable

Stage = Literal["local", "dev", "prod"]

InstanceType = Annotated[str, Field(pattern=f"^{INSTANCE_TYPE}$")]
KeyArn = Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/(mrk-)?[0-9a-f-]{32,36}$")]
# What CloudWatch Logs knows.
_LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
CronText = Annotated[str, Field(pattern=r"^cron\(\S+( \S+){5}\)$")]
TagKey = Annotated[str, Field(pattern=r"^[\w .:/=+@-]+$", max_length=128)]
TagValue = Annotated[str, Field(pattern=r"^[\w .:/=+@-]*$", max_length=256)]
# What every stage is tagged with; the budget goes by the first.
_OWN_TAGS = ("project", "stage")


class SettingsError(ValueError):
    """The settings are not valid; the message names every key that is wrong."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _time_zone(name: str) -> str:
    known = available_timezones()  # none where the system has no time zones
    if known and name not in known:
        raise ValueError(f"there is no time zone {name!r}: name one such as Asia/Seoul")
    return name


def _log_days(days: int) -> int:
    if days not in _LOG_DAYS:
        raise ValueError(f"must be one of {', '.join(map(str, _LOG_DAYS))}")
    return days


def _refuse(instance_type: str, precision: str) -> None:
    if problem := refusal(instance_type, precision):
        raise ValueError(problem)


class Identity(_Section):
    """What an account asks of roles, and of who deploys into it."""

    permissions_boundary: str | None = Field(default=None, pattern=r"^arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[\w+=,.@/-]+$")
    """The ARN of a policy that bounds every role of the stage; null for none."""
    role_path: str = Field(default="/", pattern=r"^/([\w+=,.@-]+/)*$", max_length=512)
    """The path of every role, such as /ko-reranker/; another one replaces the roles."""
    bootstrap_qualifier: str = Field(default="hnb659fds", pattern=r"^[a-z0-9]{1,10}$")
    """Of the CDK bootstrap that the stacks are deployed with: `cdk bootstrap --qualifier`."""


class Network(_Section):
    """Where jobs, endpoint and functions run: by default in networks of AWS's own, which reach the internet."""

    vpc: Literal["none", "new", "existing"] = "none"
    """A VPC for all of them: one that the stage makes, or one that there is."""
    egress: bool = False
    """Whether its subnets reach the internet; a new one gets a NAT gateway for it. Without, models come from S3."""
    cidr: Annotated[str, AfterValidator(lambda value: str(IPv4Network(value)))] = "10.42.0.0/16"
    """Of a new one: its addresses."""
    availability_zones: tuple[Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d[a-z]$")], ...] = ()
    """Of a new one: two or three that offer the instance types; empty takes the region's first two."""
    vpc_id: str | None = Field(default=None, pattern=r"^vpc-[0-9a-f]+$")
    """Of an existing one: its id, and the ids of private subnets in it."""
    subnet_ids: tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]+$")], ...] = ()
    route_table_ids: tuple[Annotated[str, Field(pattern=r"^rtb-[0-9a-f]+$")], ...] = ()
    """Of an existing one: the subnets' route tables, which get the gateway endpoints."""
    make_endpoints: bool = True
    """Make the VPC endpoints of what is called; false where an existing VPC has them."""
    isolate_endpoint: bool = False
    """Let the endpoint's containers make no calls at all: SageMaker brings their model from S3."""

    @property
    def reaches_the_hub(self) -> bool:
        """Whether jobs can download from the Hugging Face hub."""
        return self.vpc == "none" or self.egress

    @model_validator(mode="after")
    def _consistent(self) -> Network:
        of_existing = {"vpc_id": self.vpc_id, "subnet_ids": self.subnet_ids}
        if self.make_endpoints:
            of_existing["route_table_ids"] = self.route_table_ids
        if self.vpc == "existing":
            if missing := [name for name, value in of_existing.items() if not value]:
                hint = ", or make_endpoints false where it has its endpoints" if missing == ["route_table_ids"] else ""
                raise ValueError(f"vpc existing needs {' and '.join(missing)}{hint}")
        elif self.vpc_id or self.subnet_ids or self.route_table_ids:
            raise ValueError("vpc_id, subnet_ids and route_table_ids are of vpc existing: set it, or leave them out")
        if self.vpc == "new" and not self.make_endpoints and not self.egress:
            raise ValueError("a new VPC with neither endpoints nor egress reaches no service: set make_endpoints or egress")
        if len(self.availability_zones) == 1:
            raise ValueError("availability_zones must be two at least, or none to take the region's first two")
        return self


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
    key_arn: KeyArn | None = None
    """A KMS key of yours for bucket, tables and topic; null makes one. docs/operations.md has what its policy needs."""
    backup_days: int | None = Field(None, ge=1)
    """Days that a daily backup of the tables is kept, beside the 35 of point-in-time recovery; null makes none."""
    service_log_days: Annotated[int, AfterValidator(_log_days)] = 90
    """Days that logs are kept which services name themselves: of jobs, endpoint and image builds."""
    former_key_arns: tuple[KeyArn, ...] = ()
    """Keys that encrypted before key_arn: what was written under them stays readable."""

    @model_validator(mode="after")
    def _one_present_key(self) -> Data:
        if self.key_arn in self.former_key_arns:
            raise ValueError("key_arn is one of former_key_arns: take it out of those")
        return self


class Translation(_Section):
    dataset: str = Field(pattern=f"^{DATASET}$")
    """The folder under raw/ that a run takes by default."""
    source_language: str = Field(pattern=f"^{LANGUAGE}$")
    target_language: Annotated[str, AfterValidator(lambda code: languages.find(code).code)]
    """One of ko_reranker.languages, whose rules check, search and mine what comes back."""
    max_translation_usd: float = Field(ge=0, le=MOST_DOLLARS)
    """A run whose translation costs more stops before it spends anything."""
    formality: Formality | None = None
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
    approval: Approval
    poll_seconds: int = Field(ge=1)
    max_wait_minutes: int = Field(ge=1)
    kept_days: int = Field(90, ge=1)
    """Days that models and endpoint configurations of earlier releases are kept. Packages stay, and make new ones."""


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


class _Bounds(_Section):
    """How many instances the endpoint may have."""

    min_instances: int = Field(ge=1)
    max_instances: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_instances < self.min_instances:
            raise ValueError("max_instances must be at least min_instances")
        return self


class Serving(_Bounds):
    enabled: bool
    """False until a model has been chosen: an endpoint without one can't start, and an idle GPU costs money."""
    instance_type: InstanceType
    concurrent_requests_per_instance: float = Field(gt=0)
    """What autoscaling keeps each instance at."""
    startup_timeout_seconds: int = Field(ge=60, le=3600)
    server: Server
    canary: bool
    """Shift one instance's traffic first and roll back on alarms; needs two instances."""
    wake_on_request: bool = False
    """Bring an endpoint that was taken away back when somebody asks it; else only the clock and people do."""
    wake_seconds: int = Field(600, ge=30, le=7200)
    """What bringing it back takes, as callers are told meanwhile (Retry-After); requests begin it once in this time at most."""

    @model_validator(mode="after")
    def _instances(self) -> Serving:
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
    anomaly_usd: float | None = Field(None, gt=0)
    """Dollars that the project may cost beyond what it used to before somebody is told; null looks for no anomalies."""

    @property
    def cost_publishers(self) -> tuple[str, ...]:
        """The services that tell the topic of costs."""
        found = {"budgets": self.monthly_budget_usd, "costalerts": self.anomaly_usd}
        return tuple(f"{service}.amazonaws.com" for service, wanted in found.items() if wanted is not None)


class Recording(_Section):
    """What is kept of single requests and executions, beside metrics and logs."""

    tracing: bool = True
    """X-Ray traces of the API and the state machines."""
    capture_percent: int = Field(default=0, ge=0, le=100)
    """Percent of the endpoint's calls that are stored, callers' texts and all, in the data bucket under captured/."""
    capture_days: int = Field(default=30, ge=1)
    """Days until what was stored expires."""


class Capacity(_Bounds):
    """How many instances the endpoint may have from a time on, until another time says otherwise."""

    at: CronText
    """Such as cron(0 20 ? * MON-FRI *): eight in the evening of working days."""


class EndpointHours(_Section):
    """When the endpoint is taken away and when it is brought back; of what is between them nothing is billed."""

    off: CronText
    """Such as cron(0 20 ? * MON-FRI *): eight in the evening of working days, until the next `on`."""
    on: CronText
    """Such as cron(0 8 ? * MON-FRI *)."""

    @model_validator(mode="after")
    def _apart(self) -> EndpointHours:
        if self.share == 0:
            raise ValueError("off is always at the time of on: the endpoint would never be there")
        return self

    @property
    def share(self) -> float:
        """The share of the time, 0 to 1, that the endpoint is there."""
        return share_between(Cron.parse(self.on), Cron.parse(self.off))


class Schedule(_Section):
    """What begins by the clock."""

    time_zone: Annotated[str, AfterValidator(_time_zone)] = "Asia/Seoul"
    """Of the times below, such as Asia/Seoul or UTC."""
    retraining: str | None = Field(default=None, pattern=r"^(cron\(\S+( \S+){5}\)|rate\(\d+ (hours?|days?)\))$")
    """When a retraining begins, such as rate(30 days), or cron(0 3 1 * ? *), each month's first at three; null never."""
    retraining_input: dict[str, Any] = Field(default_factory=dict)
    """Its execution input; what is left out is the stage's default."""
    capacity: tuple[Capacity, ...] = ()
    """Other bounds for autoscaling than serving.min_instances and max_instances, by the hour; two at least, to come back."""
    endpoint: EndpointHours | None = None
    """When the endpoint is taken away, and brought back with the live model; null leaves it where it is."""

    @model_validator(mode="after")
    def _comes_back(self) -> Schedule:
        if len(self.capacity) == 1:
            raise ValueError("capacity needs a second time, at which it is what it was, or none")
        if self.endpoint:
            for item in self.capacity:
                if item.at in (self.endpoint.off, self.endpoint.on):
                    raise ValueError(
                        f"capacity at {item.at} is when endpoint comes or goes, and would be missed: it comes back with "
                        "serving.min_instances and max_instances, and capacity has to name a time at which it is there"
                    )
        return self


class Price(_Section):
    """What something costs, and who says so; without that it stays empty, and is told to be."""

    usd: float | None = Field(default=None, ge=0)
    source: str | None = Field(default=None, pattern=r"^https://\S+$")
    """The page that has it."""
    as_of: date | None = None
    """When it was read there."""

    @model_validator(mode="after")
    def _told_by_somebody(self) -> Price:
        if self.usd is not None and not (self.source and self.as_of):
            raise ValueError("a price needs its source and as_of, the day it was read there; null leaves it empty")
        return self


class Prices(_Section):
    """The price table of `ko-reranker cost`, of the stage's region, US dollars."""

    kms_key_month: Price = Price()
    secret_month: Price = Price()
    alarm_metric_month: Price = Price()
    """Of each metric that an alarm looks at."""
    dashboard_month: Price = Price()
    web_acl_month: Price = Price()
    web_acl_rule_month: Price = Price()
    interface_endpoint_hour: Price = Price()
    """In each zone."""
    nat_gateway_hour: Price = Price()
    api_gateway_million_requests: Price = Price()
    lambda_million_requests: Price = Price()
    lambda_gb_second: Price = Price()
    """Of functions on Arm."""
    instance_hour: dict[InstanceType, Price] = Field(default_factory=dict)
    """Of SageMaker's instances, by type."""
    cohere_thousand_searches: Price = Price()
    """To compare with: one search is a query with up to 100 documents."""
    bedrock_thousand_searches: Price = Price()
    """The same of a reranker on Amazon Bedrock."""


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
    identity: Identity = Identity()
    network: Network = Network()
    schedule: Schedule = Schedule()
    recording: Recording = Recording()
    prices: Prices = Prices()
    tags: dict[TagKey, TagValue] = Field(default_factory=dict, max_length=40)
    """Further tags of everything that takes tags, what runs and releases make included."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for key in filter(None, (self.data.key_arn, *self.data.former_key_arns)):
            if key.split(":")[3] != self.region:
                raise ValueError(f"data.key_arn and former_key_arns must be keys of {self.region}, {key} is not")
        if not self.network.reaches_the_hub:
            models = {"training.base_model": self.training.base_model, "mining.teacher": self.mining.teacher}
            for name, model in models.items():
                if model and (problem := unreachable(model)):
                    raise ValueError(f"{name} {problem}")
        # What a run without an input does, and the one that the clock starts, would else be refused when it is too late.
        started = {"a retraining's defaults": {}, "schedule.retraining_input": self.schedule.retraining_input}
        defaults = self.execution_defaults("data-bucket")
        for name, given in started.items():
            try:
                resolve(given, "scheduled", defaults)
            except PipelineError as error:
                raise ValueError(f"{name}: {error}") from None
        if own := sorted(key for key in self.tags if key in _OWN_TAGS or key.startswith("aws:")):
            raise ValueError(f"tags: {' and '.join(own)} are not yours to set: name yours otherwise")
        return self

    def execution_defaults(self, bucket: str) -> Defaults:
        """Return what a retraining's execution input leaves out, for the data bucket of that name."""
        translation, training = self.translation, self.training
        return Defaults(
            bucket=bucket,
            job_name_prefix=f"{self.prefix}-",
            recipes=recipes(),
            max_training_hours=training.max_hours,
            max_instances=training.max_instances,
            dev_fraction=translation.dev_fraction,
            max_rejected_fraction=translation.max_rejected_fraction,
            dataset=translation.dataset,
            source_language=translation.source_language,
            target_language=translation.target_language,
            max_translation_usd=translation.max_translation_usd,
            formality=translation.formality,
            terminology=translation.terminology,
            recipe=training.recipe,
            base_model=training.base_model,
            instance_type=training.instance_type,
            instance_count=training.instance_count,
            use_spot=training.use_spot,
            mine_negatives=training.mine_negatives,
            approval=self.release.approval,
            reaches_the_hub=self.network.reaches_the_hub,
        )

    @property
    def most_instances(self) -> int:
        """The most instances that the endpoint ever has, updates aside."""
        return max(self.serving.max_instances, *(item.max_instances for item in self.schedule.capacity), 0)

    @property
    def resource_tags(self) -> dict[str, str]:
        """The tags of everything that takes tags."""
        return {"project": self.name, "stage": self.stage, **self.tags}

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
        if (dot and section in Settings.model_fields) or key in ("name", "region", "tags"):
            _set(merged, key, value)
    try:
        # As JSON, where a list is a tuple and a text a date; and strictly: true is no number, and "1" neither.
        return Settings.model_validate_json(json.dumps({**merged, "stage": stage}), strict=True)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in problems_of(error)]
        raise SettingsError(f"settings of stage {stage} are not valid: " + "; ".join(problems)) from None


def _sentence(problem: Problem) -> str:
    if problem.kind == "missing":
        return f"{problem.at} is missing"
    if problem.is_unknown:
        return f"{problem.at} is not a setting"
    if isinstance(problem.value, dict):
        return f"{problem.at}: {problem.reason}" if problem.at else problem.reason
    return f"{problem.at}: {problem.reason} (is {problem.value!r})"


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
        # -c gives strings: numbers, booleans (as Python spells them, too), null and lists are meant as such.
        with contextlib.suppress(ValueError):
            value = json.loads({"True": "true", "False": "false"}.get(value, value))
    settings[key] = value
