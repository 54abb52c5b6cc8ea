"""Permissions: named actions on named resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import aws_iam as iam

from cdk.constructs.acknowledgements import acknowledge_wildcards

NO_RESOURCE = "These actions know no resources."
OWN_NAMES = "Jobs, models and executions get their names when they start; the stage's prefix bounds them."


def allow(
    role: iam.IRole,
    *actions: str,
    on: Sequence[str],
    conditions: Mapping[str, Any] | None = None,
    because: str | None = None,
) -> None:
    """Let a role do ``actions`` on the resources ``on``.

    Args:
        on: ARNs.
        because: why some of them end in a wildcard; without a reason the synth stops at one.
    """
    role.add_to_principal_policy(
        iam.PolicyStatement(actions=list(actions), resources=list(on), conditions=dict(conditions or {}))
    )
    if because:
        acknowledge_wildcards(role, on, reason=because)
