"""Draw docs/architecture.md from prod's templates: what there is, stack by stack, and what may reach what.

Arrows are permissions of the roles, targets of rules, and who may call a function.

make docs
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ko_reranker.operations.project import Project
from ko_reranker.operations.synthesis import Templates, synthesise

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
# Mermaid's shape for each type of resource.
_SHAPES = {
    "AWS::ApiGateway::RestApi": '{}[/"{}"/]',
    "AWS::CloudFront::Distribution": '{}[/"{}"/]',
    "AWS::CodeBuild::Project": '{}["{}"]',
    "AWS::DynamoDB::Table": '{}[("{}")]',
    "AWS::ECR::Repository": '{}[("{}")]',
    "AWS::Events::Rule": '{}(["{}"])',
    "AWS::Lambda::Function": '{}["{}"]',
    "AWS::S3::Bucket": '{}[("{}")]',
    "AWS::SNS::Topic": '{}>"{}"]',
    "AWS::SQS::Queue": '{}[("{}")]',
    "AWS::SageMaker::Endpoint": '{}[["{}"]]',
    "AWS::SageMaker::ModelPackageGroup": '{}[("{}")]',
    "AWS::StepFunctions::StateMachine": '{}{{{{"{}"}}}}',
    "Custom::LiveModelParameter": '{}[("{}")]',
}
_SAID = {
    "AWS::ApiGateway::RestApi": "API Gateway",
    "AWS::CloudFront::Distribution": "CloudFront",
    "AWS::CodeBuild::Project": "CodeBuild",
    "AWS::ECR::Repository": "ECR",
    "AWS::SNS::Topic": "SNS topic",
    "AWS::SQS::Queue": "what reached nobody",
    "AWS::SageMaker::Endpoint": "SageMaker endpoint",
    "AWS::SageMaker::ModelPackageGroup": "model registry",
    "Custom::LiveModelParameter": "live model",
}
# What is known by a name of ours and not by a reference, in ARNs.
_BY_NAME = {
    r"endpoint/ko-reranker-prod$": "AWS::SageMaker::Endpoint",
    r"model-package(-group)?/ko-reranker-prod": "AWS::SageMaker::ModelPackageGroup",
    r"parameter/ko-reranker/prod/live-model$": "Custom::LiveModelParameter",
    r"repository/ko-reranker-prod$": "AWS::ECR::Repository",
}
# The property that names a resource's role.
_ROLE_OF = {
    "AWS::CodeBuild::Project": "ServiceRole",
    "AWS::Lambda::Function": "Role",
    "AWS::StepFunctions::StateMachine": "RoleArn",
}
# SageMaker's containers are known to templates by their roles.
_JOBS = {"TrainingRole": "training job", "ProcessingRole": "mining and evaluation jobs"}

Node = tuple[str, str]  # stack, logical id


def page(templates: Templates) -> str:
    """Return the page."""
    nodes = {
        (stack, name): resource["Type"]
        for stack, template in templates.items()
        for name, resource in template["Resources"].items()
        if resource["Type"] in _SHAPES or _plain(name) in _JOBS
    }
    edges = sorted({edge for stack in templates for edge in _edges(stack, templates, nodes) if edge[0] != edge[1]})
    lines = ["```mermaid", "flowchart LR"]
    for stack in dict.fromkeys(stack for stack, _ in nodes):
        lines.append(f"  subgraph {stack}")
        lines += [f"    {_shape(node, kind)}" for node, kind in sorted(nodes.items()) if node[0] == stack]
        lines.append("  end")
    lines += [f"  {_id(source)} --> {_id(target)}" for source, target in edges]
    lines.append("```")
    return "\n".join(["# Architecture", "", _INTRODUCTION, "", *lines, ""])


_INTRODUCTION = """\
Drawn by `make docs` from the templates of stage prod; a test holds it to them. An arrow says that one may use the other: by
its role's policy, as the target of a rule, or as who may call a function. Keys, logs, roles and alarms are left out; what is at
rest is under the stage's key, every function has a log of its own, and the stack observability looks at all of it."""


def _edges(stack: str, templates: Templates, nodes: dict[Node, str]) -> Iterator[tuple[Node, Node]]:
    resources = templates[stack]["Resources"]
    owners = _owners(stack, resources, nodes)
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::IAM::Policy":
                for role in properties["Roles"]:
                    for target in _named(properties["PolicyDocument"], stack, templates, nodes):
                        yield from ((owner, target) for owner in owners.get(role.get("Ref", ""), ()))
            case "AWS::Events::Rule":
                for target in _named(properties["Targets"], stack, templates, nodes):
                    yield (stack, name), target
            case "AWS::Lambda::Permission" if "execute-api" in json.dumps(properties):
                for target in _named(properties["FunctionName"], stack, templates, nodes):
                    for source in (node for node, kind in nodes.items() if kind == "AWS::ApiGateway::RestApi"):
                        yield source, target
            case "AWS::CloudFront::Distribution":
                for target in _named(properties, stack, templates, nodes):
                    yield (stack, name), target


def _owners(stack: str, resources: dict[str, Any], nodes: dict[Node, str]) -> dict[str, list[Node]]:
    """Whose a role is, by the role's logical id."""
    found: dict[str, list[Node]] = {}
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role" and (stack, name) in nodes:
            found.setdefault(name, []).append((stack, name))
        if resource["Type"] in _ROLE_OF:
            role = properties[_ROLE_OF[resource["Type"]]]
            found.setdefault(next(iter(_references(role)), ""), []).append((stack, name))
        if resource["Type"] == "AWS::SageMaker::Model":
            endpoints = [node for node, other in nodes.items() if other == "AWS::SageMaker::Endpoint"]
            found.setdefault(next(iter(_references(properties["ExecutionRoleArn"])), ""), []).extend(endpoints)
    return found


def _named(value: Any, stack: str, templates: Templates, nodes: dict[Node, str]) -> Iterator[Node]:
    """The shown resources that a value refers to: by reference, by another stack's export, or by a name of ours."""
    for name in _references(value):
        if (stack, name) in nodes:
            yield stack, name
    for export in re.findall(r'"Fn::ImportValue": "([^"]+)"', json.dumps(value)):
        other, _, output = export.partition(":")
        other = other.rpartition("-")[2]
        for name in _references(templates[other]["Outputs"][output]["Value"]):
            if (other, name) in nodes:
                yield other, name
    for text in _strings(value):
        for pattern, kind in _BY_NAME.items():
            if re.search(pattern, text):
                yield from (node for node, other_kind in nodes.items() if other_kind == kind)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "Ref" and isinstance(item, str):
                yield item
            elif key == "Fn::GetAtt":
                yield item[0]
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _shape(node: Node, kind: str) -> str:
    name = _plain(node[1])
    label = _JOBS.get(name) or _SAID.get(kind) or _words(name)
    return _SHAPES.get(kind, '{}["{}"]').format(_id(node), label)


def _id(node: Node) -> str:
    return f"{node[0]}_{_plain(node[1])}"


def _plain(name: str) -> str:
    return re.sub(r"[0-9A-F]{8}$", "", name)


def _words(name: str) -> str:
    """`RetrainingRetrainMachine` as `retraining`: without what the shape says, or the name does twice."""
    if name.startswith("DeployTimeBuild"):
        return "starts image builds"
    name = re.sub(r"(?<=[a-z])(Do|Look|Retrain|Deploy)?(Function|Machine)$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def main() -> None:
    templates = synthesise(Project.find(ROOT), "prod", {"serving.enabled": "true"})
    PAGE.write_text(page(templates), encoding="utf-8")


if __name__ == "__main__":
    main()
