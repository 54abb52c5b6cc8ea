"""EventBridge: a rule's targets are reached only with permission.

MiniStack 1.5.33 matches events (also the ones of services, such as "Step Functions Execution Status Change") and
delivers them to any target. On AWS a state machine is started in the name of the target's role, while a function, a
topic and a queue must allow ``events.amazonaws.com`` themselves; a refused delivery is a FailedInvocation that no caller
sees. Here it is a warning in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from ministack.services import eventbridge, lambda_svc, sns, sqs

from local_cloud.extensions import iam
from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.eventbridge", "_invoke_target"),)

logger = logging.getLogger("local_cloud")

_SERVICE = "events.amazonaws.com"


def refusal(target: dict[str, Any], rule: dict[str, Any]) -> str | None:
    """Why EventBridge may not deliver to a target, or None."""
    arn = target.get("Arn", "")
    service = arn.split(":")[2] if arn.count(":") >= 5 else ""
    if service == "states":
        return _role_refusal(target.get("RoleArn", ""), "states:StartExecution", arn)
    source = eventbridge._rule_arn(rule.get("Name", ""), rule.get("EventBusName", "default"))
    lookups = {
        "lambda": (lambda_svc.function_policy_for_arn, "lambda:InvokeFunction"),
        "sns": (sns.topic_policy_for_arn, "sns:Publish"),
        "sqs": (sqs.queue_policy_for_arn, "sqs:SendMessage"),
    }
    if service not in lookups:
        return None
    lookup, action = lookups[service]
    found = lookup(arn)
    if found is None:
        return f"{arn} does not exist"
    if iam.service_denial(found[0], _SERVICE, action, arn, source):
        return f"the policy of {arn} does not let {_SERVICE} perform {action} for {source}"
    if iam.service_key_denial(_SERVICE, action, arn, source):
        return f"the policy of the KMS key of {arn} does not let {_SERVICE} use it"
    return None


def _role_refusal(role: str, action: str, resource: str) -> str | None:
    if not role:
        return f"the target {resource} has no role"
    if not iam.trusts(role, _SERVICE):
        return f"the role {role} does not trust {_SERVICE}"
    refused = iam.denial(role, action, resource, session="events")
    return str(refused) if refused else None


def _invoke_target(original: Any) -> Any:
    def invoke(target: dict[str, Any], event: dict[str, Any], rule: dict[str, Any], view: Any = None) -> Any:
        reason = refusal(target, rule)
        if reason is not None:
            logger.warning("EventBridge rule %s: FailedInvocation, %s", rule.get("Name"), reason)
            return None
        return original(target, event, rule, view)

    return invoke


def install(patch: Patcher) -> None:
    """Check permissions before a delivery."""
    patch.replace(eventbridge, "_invoke_target", _invoke_target)
