"""Further rules of a stage's templates, and all of them together: what `ko-reranker doctor --offline` looks at.

Each is a function from templates by stack to breaches, with where the service documents it; none asks a service. What
templates can't show is in ``UNKNOWN``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from ko_reranker.instances import AMPERE, gpu_of, refusal
from ko_reranker.operations import template_rules
from ko_reranker.operations.synthesis import Templates, state_machines, text
from ko_reranker.operations.template_rules import Breach

Rule = Callable[[Templates], Iterator[Breach]]

_AWS = "https://docs.aws.amazon.com"
_CONFIG = "AWS::SageMaker::EndpointConfig"
# SMALL has 64 GB of disk, for the context, the layers and the image with CUDA that they make.
_TOO_SMALL = ("BUILD_GENERAL1_SMALL",)

UNKNOWN = (
    "whether the account's quotas, bootstrap, credentials and concurrency suffice: `ko-reranker doctor` without --offline",
    "whether Step Functions accepts the definitions: the same asks its ValidateStateMachineDefinition",
    "whether the image builds, finds its GPU and a driver new enough: `make test-image`, and `make test-gpu` on a GPU machine",
    "whether a released model outlives this deploy: that is the deploy's order of events, not a template's text",
    "whether an instance type is there in the region, a price holds",
)


def _rule(source: str) -> Callable[[Callable[[Templates], Iterator[str]]], Rule]:
    """Make a rule of a function that yields ``where: message``."""

    def make(look: Callable[[Templates], Iterator[str]]) -> Rule:
        @functools.wraps(look)
        def rule(templates: Templates) -> Iterator[Breach]:
            for sentence in look(templates):
                where, _, message = sentence.partition(": ")
                yield Breach(look.__name__, where, message, source)

        return rule

    return make


@_rule("https://developer.nvidia.com/cuda-gpus")
def instances_have_the_precision_and_the_attention(templates: Templates) -> Iterator[str]:
    """A GPU has the precision that is asked of it, and flash attention."""
    precision = _server_precision(templates)
    machines = state_machines(templates)
    wanted = []
    for machine, state, parameters in _tasks(machines):
        for kind in _values(parameters, "InstanceType"):
            wanted.append((f"{machine}/{state}", kind, precision if state in ("Evaluate",) else "auto"))
    for name, item in _resources(templates, "AWS::SageMaker::EndpointConfig"):
        wanted += [(name, variant.get("InstanceType"), precision) for variant in item["Properties"]["ProductionVariants"]]
    for name, item in _resources(templates, "AWS::Lambda::Function"):
        defaults = item["Properties"].get("Environment", {}).get("Variables", {}).get("DEFAULTS")
        if defaults:
            wanted.append((name, json.loads(text(defaults)).get("instance_type"), "auto"))
    for place, kind, asked in wanted:
        if not isinstance(kind, str):
            continue
        against = refusal(kind, asked)
        gpu = gpu_of(kind)
        if against:
            yield f"{place}: {against}"
        elif gpu and gpu.capability and gpu.capability < AMPERE:
            yield f"{place}: {kind} has a {gpu.name}, which has no flash attention: slower for its price than ml.g5 or ml.g6"


@_rule(f"{_AWS}/sagemaker/latest/APIReference/API_ProductionVariant.html")
def gpu_endpoints_name_their_host(templates: Templates) -> Iterator[str]:
    """A GPU endpoint names its host's image: the default one's driver is too old."""
    places = [(name, item["Properties"]["ProductionVariants"]) for name, item in _resources(templates, _CONFIG)]
    for machine, state, parameters in _tasks(state_machines(templates), "createEndpointConfig"):
        places.append((f"{machine}/{state}", parameters["ProductionVariants"]))
    for place, variants in places:
        for variant in variants:
            kind = variant.get("InstanceType")
            if isinstance(kind, str) and gpu_of(kind) and not variant.get("InferenceAmiVersion"):
                yield f"{place}: {kind} without InferenceAmiVersion gets a host whose driver is too old for CUDA 13"


@_rule(f"{_AWS}/codebuild/latest/userguide/build-env-ref-compute-types.html")
def image_builds_have_the_disk(templates: Templates) -> Iterator[str]:
    """The image's build has the disk for CUDA."""
    for name, item in _resources(templates, "AWS::CodeBuild::Project"):
        size = item["Properties"]["Environment"].get("ComputeType")
        if size in _TOO_SMALL:
            yield f"{name}: {size} has too little disk for an image with CUDA, many gigabytes twice over"


@_rule(f"{_AWS}/AmazonS3/latest/userguide/delete-bucket.html")
def what_is_not_kept_can_be_deleted(templates: Templates) -> Iterator[str]:
    """What goes with its stack is emptied before: S3 and the registry refuse to delete what is not."""
    emptied = json.dumps([item["Properties"] for _, item in _resources(templates, "Custom::CleanUp")])
    for kind in ("AWS::S3::Bucket", "AWS::SageMaker::ModelPackageGroup"):
        for name, item in _resources(templates, kind):
            if item.get("DeletionPolicy", "Delete") != "Delete":
                continue
            group = item.get("Properties", {}).get("ModelPackageGroupName")
            if f'"{name}"' not in emptied and not (group and f'"{group}"' in emptied):
                yield f"{name}: goes with its stack and nothing empties it first: refused once it has been used"


@_rule(f"{_AWS}/sagemaker/latest/APIReference/API_DescribeEndpoint.html")
def live_is_what_the_endpoint_runs(templates: Templates) -> Iterator[str]:
    """A release that finds its model live has asked the endpoint, not the record alone."""
    deploy = state_machines(templates).get("deploy")
    if not deploy or "Update the endpoint" not in deploy["States"]:
        return
    for name, body in deploy["States"].items():
        # Where a release ends without an update: that the record says so is not enough.
        if body.get("Resource", "").endswith("dynamodb:putItem") and "already" in name:
            asked = (str(deploy["States"][state].get("Resource", "")) for state in _before(deploy, name))
            if not any("describeEndpoint" in resource for resource in asked):
                yield f"deploy/{name}: goes by the record, without a look at what the endpoint really runs"


@_rule(f"{_AWS}/AWSCloudFormation/latest/UserGuide/crpg-ref-requesttypes-update.html")
def deploys_ask_the_release_lock(templates: Templates) -> Iterator[str]:
    """Before a deploy updates the endpoint a custom resource is called, which looks whether a release is under way."""
    guards = dict(_resources(templates, "Custom::ReleaseGuard"))
    for name, item in _resources(templates, "AWS::SageMaker::Endpoint"):
        config = item["Properties"]["EndpointConfigName"]
        before = item.get("DependsOn", ())
        asked = (
            guards[other]["Properties"].values()
            for other in ([before] if isinstance(before, str) else before)
            if other in guards
        )
        if not any(config in values for values in asked):
            yield f"{name}: a deploy updates it whatever a release does: nothing asks the lock first"


@_rule(f"{_AWS}/step-functions/latest/apireference/API_ValidateStateMachineDefinition.html")
def state_machines_lead_somewhere(templates: Templates) -> Iterator[str]:
    """Every transition has a target, every machine a time-out."""
    for name, definition in state_machines(templates).items():
        states = definition["States"]
        targets = {definition["StartAt"]}
        for body in states.values():
            targets |= set(_values(body, "Next")) | set(_values(body, "Default"))
        inner = {state for body in states.values() for state in _inner(body)}
        yield from (f"{name}: there is no state {target!r}" for target in sorted(targets - states.keys() - inner))
        if "TimeoutSeconds" not in definition:
            yield f"{name}: has no time-out: an execution that hangs holds the lock for a year"


@_rule(f"{_AWS}/sagemaker/latest/dg/deployment-guardrails-blue-green-canary.html")
def canaries_have_two_instances(templates: Templates) -> Iterator[str]:
    """A canary needs another instance beside it."""
    canary = '"CANARY"' in json.dumps(templates)
    for name, item in _resources(templates, _CONFIG):
        for variant in item["Properties"]["ProductionVariants"]:
            if canary and int(variant.get("InitialInstanceCount", 1)) < 2:
                yield f"{name}: a canary of one instance needs two"


@_rule(f"{_AWS}/waf/latest/developerguide/waf-rule-statement-forwarded-ip-address.html")
def the_rate_rule_counts_who_connects(templates: Templates) -> Iterator[str]:
    """The rate rule stands where callers connect to, and nothing is reachable beside it."""
    in_front = list(_resources(templates, "AWS::CloudFront::Distribution"))
    for stack, template in templates.items():
        for name, item in template["Resources"].items():
            if item["Type"] != "AWS::WAFv2::WebACL":
                continue
            rates = [rate for rate in _values(item["Properties"], "RateBasedStatement") if isinstance(rate, dict)]
            for rate in rates:
                if rate.get("AggregateKeyType") == "FORWARDED_IP":
                    yield f"{stack}/{name}: counts an address that callers write themselves, the first of X-Forwarded-For"
                if in_front and item["Properties"].get("Scope") != "CLOUDFRONT":
                    yield f"{stack}/{name}: stands behind CloudFront and counts CloudFront's own addresses"
    rated = any(isinstance(rate, dict) for t in templates.values() for rate in _values(t, "RateBasedStatement"))
    for name, item in in_front:
        config = item["Properties"]["DistributionConfig"]
        if not rated:
            continue
        if not config.get("WebACLId"):
            yield f"{name}: the rate rule isn't where callers connect to: the distribution has no web ACL"
        sent = [header for origin in config["Origins"] for header in origin.get("OriginCustomHeaders", ())]
        checked = json.dumps([acl["Properties"] for _, acl in _resources(templates, "AWS::WAFv2::WebACL")])
        if not any(f'"{header["HeaderName"]}"' in checked for header in sent):
            yield f"{name}: the API beside it is reachable without it: no header that only CloudFront knows is checked"
        for header in sent:
            if "{{resolve:" not in json.dumps(header["HeaderValue"]):
                yield f"{name}: the template tells the value of {header['HeaderName']}"


RULES: tuple[Rule, ...] = (
    *template_rules.RULES,
    instances_have_the_precision_and_the_attention,
    gpu_endpoints_name_their_host,
    image_builds_have_the_disk,
    what_is_not_kept_can_be_deleted,
    live_is_what_the_endpoint_runs,
    deploys_ask_the_release_lock,
    state_machines_lead_somewhere,
    canaries_have_two_instances,
    the_rate_rule_counts_who_connects,
)


def _resources(templates: Templates, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for template in templates.values():
        for name, item in template["Resources"].items():
            if item["Type"] == kind:
                yield name, item


def _states(machines: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for machine, definition in machines.items():
        yield from ((machine, state, body) for state, body in definition["States"].items())
        for body in definition["States"].values():
            yield from ((machine, state, inner) for state, inner in _inner(body).items())


def _inner(body: dict[str, Any]) -> dict[str, Any]:
    states: dict[str, Any] = (body.get("ItemProcessor") or body.get("Iterator") or {}).get("States", {})
    return states


def _tasks(machines: dict[str, dict[str, Any]], operation: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    for machine, state, body in _states(machines):
        if body["Type"] == "Task" and operation in body.get("Resource", ""):
            yield machine, state, body.get("Parameters", {})


def _server_precision(templates: Templates) -> str:
    for _, item in _resources(templates, "AWS::SageMaker::Model"):
        environment: dict[str, str] = item["Properties"]["PrimaryContainer"].get("Environment", {})
        return environment.get("KO_RERANKER_DTYPE", "auto")
    return "auto"


def _before(definition: dict[str, Any], state: str) -> set[str]:
    """The states from which a state can be reached."""
    found: set[str] = set()
    wanted = {state}
    while wanted:
        target = wanted.pop()
        for name, body in definition["States"].items():
            leads = {*_values(body, "Next"), *_values(body, "Default")}
            if target in leads and name not in found:
                found.add(name)
                wanted.add(name)
    return found


def _values(value: Any, key: str) -> Iterator[Any]:
    """Every value under a key, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from _values(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, key)
