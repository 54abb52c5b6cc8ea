"""cdk-nag's findings that stay: acknowledged beside what they excuse, each with its reason.

A finding's id holds what it found, so an acknowledgement covers that and nothing that is added later.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import aws_cdk as cdk
from constructs import IConstruct


def acknowledge(construct: IConstruct, *findings: str, reason: str) -> None:
    """Acknowledge findings, such as ``L1`` or ``IAM5[Resource::*]``, on a construct and what it is made of."""
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=f"AwsSolutions::AwsSolutions-{finding}", reason=reason) for finding in findings)
    )


def acknowledge_wildcards(role: IConstruct, arns: Iterable[str], *, reason: str) -> None:
    """Acknowledge that a role's permissions end in a wildcard, on those of the ARNs that have one.

    Args:
        arns: as the role's own template has them: what another stack exports is imported.
    """
    written = [_written(cdk.Stack.of(role).resolve(arn)) for arn in arns]
    acknowledge(role, *(f"IAM5[Resource::{arn}]" for arn in written if "*" in arn), reason=reason)


def acknowledge_managed_policy(construct: IConstruct, name: str, *, reason: str) -> None:
    """Acknowledge one of AWS's own policies, such as ``service-role/AWSLambdaBasicExecutionRole``, on a role."""
    acknowledge(construct, f"IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{name}]", reason=reason)


def _written(value: Any) -> str:
    """Write an ARN of a template as cdk-nag's findings do."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(map(_written, parts))
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Fn::ImportValue": name}:
            return _written(name)
        case {"Ref": name}:
            return f"<{name}>"
        case str():
            return value
        case _:
            raise ValueError(f"an ARN that cdk-nag writes in a way not known here: {value}")
