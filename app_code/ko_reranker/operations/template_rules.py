"""What CloudFormation and the services ask of synthesised templates, each rule with the page that says so.

Templates are plain dictionaries: the rules need no CDK and no account, so that whoever holds templates can check them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Template = Mapping[str, Any]

_CLOUDFORMATION = "https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/"
_SAGEMAKER_API = "https://docs.aws.amazon.com/sagemaker/latest/APIReference/"
# The property that gives a resource its name, by type.
_NAMES = {
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::ECR::Repository": "RepositoryName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SSM::Parameter": "Name",
    "AWS::SageMaker::ModelPackageGroup": "ModelPackageGroupName",
    "AWS::StepFunctions::StateMachine": "StateMachineName",
}


@dataclass(frozen=True, slots=True)
class Breach:
    """Where a template breaks a rule.

    Attributes:
        rule: the rule's name.
        where: stack and logical id.
        message: what goes wrong on AWS, in a sentence.
        source: the page that says so.
    """

    rule: str
    where: str
    message: str
    source: str


def breaches(templates: Mapping[str, Template]) -> list[Breach]:
    """Return what a stage's templates, by stack, break; an empty list when they keep every rule."""
    return [breach for rule in RULES for breach in rule(templates)]


def _resources(templates: Mapping[str, Template], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``stack: logical id``, resource) of a type, or of all whose type the pattern ``kind`` matches."""
    for stack, template in templates.items():
        for name, resource in template["Resources"].items():
            if re.fullmatch(kind, resource["Type"]):
                yield f"{stack}: {name}", resource


def kept_names_are_given_back(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """What is retained under a fixed name must not stay behind when the deploy that makes it fails."""
    for where, resource in _resources(templates, ".*"):
        name = resource.get("Properties", {}).get(_NAMES.get(resource["Type"], ""))
        if name and resource.get("DeletionPolicy") == "Retain":
            yield Breach(
                "kept_names_are_given_back",
                where,
                f"a first deploy that fails leaves {name!r} behind, and the next finds the name taken: RetainExceptOnCreate",
                f"{_CLOUDFORMATION}aws-attribute-deletionpolicy.html",
            )


def prefixes_do_not_trust_an_answer(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """A model's prefix must end with a slash, which the training's answer need not bring."""
    for where, machine in _resources(templates, "AWS::StepFunctions::StateMachine"):
        if "S3ModelArtifacts" in json.dumps(machine):
            yield Breach(
                "prefixes_do_not_trust_an_answer",
                where,
                "S3ModelArtifacts may come without the slash that S3Prefix demands: build it from bucket, run and job",
                f"{_SAGEMAKER_API}API_S3ModelDataSource.html",
            )


def rollback_alarms_can_be_read(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """An update with alarms is refused where the endpoint's role, or who asks for it, may not look at them."""
    for stack, template in templates.items():
        if "AutoRollbackConfiguration" not in json.dumps(template):
            continue
        hosting = {_role(model["Properties"]["ExecutionRoleArn"]) for _, model in _of(template, "AWS::SageMaker::Model")}
        for role, actions in _roles(template).items():
            if (role in hosting or "sagemaker:UpdateEndpoint" in actions) and "cloudwatch:DescribeAlarms" not in actions:
                yield Breach(
                    "rollback_alarms_can_be_read",
                    f"{stack}: {role}",
                    "automatic rollback needs cloudwatch:DescribeAlarms on its alarms",
                    "https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html",
                )


def approvals_are_told_from_edits(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """A package's event comes again, still "Approved", whenever its metadata is edited."""
    for where, rule in _resources(templates, "AWS::Events::Rule"):
        pattern = json.dumps(rule["Properties"].get("EventPattern", {}))
        if "ModelApprovalStatus" in pattern and "UpdatedModelPackageFields" not in pattern:
            yield Breach(
                "approvals_are_told_from_edits",
                where,
                "an edit of an approved package's metadata would start a release: match UpdatedModelPackageFields",
                "https://docs.aws.amazon.com/sagemaker/latest/dg/automating-sagemaker-with-eventbridge.html",
            )


# Of a role that may do the first, the second as well, by AWS's own policies or API reference.
_TOGETHER = (
    (
        "sagemaker:CreateTrainingJob",
        "sagemaker:ListTags",
        "https://docs.aws.amazon.com/step-functions/latest/dg/sagemaker-iam.html",
    ),
    (
        "sagemaker:CreateProcessingJob",
        "sagemaker:ListTags",
        "https://docs.aws.amazon.com/step-functions/latest/dg/sagemaker-iam.html",
    ),
    (
        "sagemaker:CreateModelPackage",
        "s3:GetObject",
        "https://docs.aws.amazon.com/sagemaker/latest/dg/security-iam-awsmanpol-model-registry.html",
    ),
)
_IMAGE_LOOK = "https://docs.aws.amazon.com/sagemaker/latest/dg/security-iam-awsmanpol-model-registry.html"


def documented_rights_come_together(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """What a service's documentation grants beside an action is granted: an emulator may never ask for it."""
    for stack, template in templates.items():
        builds_image = any(_of(template, "AWS::ECR::Repository"))
        for role, actions in _roles(template).items():
            wanted = [(needed, source) for action, needed, source in _TOGETHER if action in actions]
            if builds_image and "sagemaker:CreateModelPackage" in actions:
                wanted += [(f"ecr:{action}", _IMAGE_LOOK) for action in ("BatchGetImage", "DescribeImages")]
            if _is_job_role(template, role, actions):
                wanted.append(("kms:Encrypt", f"{_SAGEMAKER_API}API_OutputDataConfig.html"))
            for needed, source in dict(wanted).items():
                if needed not in actions:
                    yield Breach("documented_rights_come_together", f"{stack}: {role}", f"lacks {needed}", source)


def _is_job_role(template: Template, role: str, actions: set[str]) -> bool:
    """Whether a role is SageMaker's, and writes a job's output."""
    trust = json.dumps(template["Resources"].get(role, {}).get("Properties", {}).get("AssumeRolePolicyDocument", {}))
    return "sagemaker.amazonaws.com" in trust and "s3:PutObject" in actions


def _of(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource


def _roles(template: Template) -> dict[str, set[str]]:
    """The actions that a template's inline policies allow, by the role's logical id."""
    found: dict[str, set[str]] = {name: set() for name, _ in _of(template, "AWS::IAM::Role")}
    for _, policy in _of(template, "AWS::IAM::Policy"):
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            for role in policy["Properties"].get("Roles", ()) if statement["Effect"] == "Allow" else ():
                found.setdefault(_role(role), set()).update([actions] if isinstance(actions, str) else actions)
    return found


def _role(reference: Any) -> str:
    """The logical id of a role that a template refers to."""
    if isinstance(reference, str):
        return reference
    role: str = reference.get("Ref") or reference["Fn::GetAtt"][0]
    return role


def no_deploy_writes_the_live_model(templates: Mapping[str, Template]) -> Iterator[Breach]:
    """A parameter that a state machine writes must not be CloudFormation's, which writes it back at any change."""
    written = set()
    for _, machine in _resources(templates, "AWS::StepFunctions::StateMachine"):
        text = json.dumps(machine).replace("\\", "")
        written |= {name for name in re.findall(r'"Name": ?"([^"]+)"', text) if "ssm:putParameter" in text}
    for where, parameter in _resources(templates, "AWS::SSM::Parameter"):
        if parameter["Properties"].get("Name") in written:
            yield Breach(
                "no_deploy_writes_the_live_model",
                where,
                "CloudFormation writes the template's value over the live one at any change, a tag's included",
                "https://github.com/aws-cloudformation/aws-cloudformation-resource-providers-ssm",
            )


RULES: tuple[Callable[[Mapping[str, Template]], Iterator[Breach]], ...] = (
    kept_names_are_given_back,
    prefixes_do_not_trust_an_answer,
    rollback_alarms_can_be_read,
    approvals_are_told_from_edits,
    documented_rights_come_together,
    no_deploy_writes_the_live_model,
)
