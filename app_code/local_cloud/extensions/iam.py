"""IAM where MiniStack does not look: roles used inside the cloud, KMS keys behind services, SageMaker over HTTP.

With ``AUTH=true`` MiniStack 1.5.33 evaluates callers that come over HTTP. It has no IAM namespace for SageMaker and for
Application Auto Scaling, so that any caller may do anything there; it doesn't see which alarm's actions are switched on or off;
and encrypted buckets, tables and topics can be used without permission on their key. AWS asks for ``kms:Decrypt`` or
``kms:GenerateDataKey`` in the caller's name, through the service.

``denial`` answers for a role without a request: for what Step Functions, EventBridge and SageMaker jobs do in a role's
name.
"""

from __future__ import annotations

import contextvars
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import dynamodb, kms, s3, sns
from ministack.services import iam as iam_service

from local_cloud.extensions.patching import Patcher

PATCHED = (
    ("ministack.core.iam_actions", "SERVICE_TO_IAM_NAMESPACE"),
    ("ministack.core.iam_actions", "extract_iam_action"),
    ("ministack.core.iam_actions", "extract_resource_arn"),
    ("ministack.core.iam_actions", "access_denied_response"),
    ("ministack.core.iam_evaluator", "enforce"),
)


@dataclass(frozen=True)
class Denial:
    """Why a role may not do something."""

    principal: str
    action: str
    resource: str
    explicit: bool = False

    def __str__(self) -> str:
        """AWS's sentence."""
        return iam_actions.identity_denial_message(self.action, self.principal, self.resource, self.explicit)


# ---------------------------------------------------------------------------------------------------------------------
# Roles


def denial(
    role_arn: str, action: str, resource: str, context: Mapping[str, Any] | None = None, *, session: str = "local"
) -> Denial | None:
    """Evaluate an action in a role's name; None when it is allowed.

    Identity policies, the permissions boundary, the resource's own policy and the KMS key behind it all count.

    Args:
        context: condition keys of the request, such as ``{"iam:PassedToService": "sagemaker.amazonaws.com"}``.
        session: the role session's name, as the denial's sentence shows it.
    """
    if not app.AUTH:
        return None
    account, name = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
    principal = iam_evaluator.PrincipalInfo(
        arn=f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
        type="AssumedRole",
        account=account,
        policies=iam_evaluator._gather_role_policies(name, account),
        limits=iam_evaluator._permissions_boundary(iam_service._roles, name, account),
    )
    return _denial_of(principal, action, resource, context or {}) or _key_denial(principal, action, resource)


def _denial_of(principal: iam_evaluator.PrincipalInfo, action: str, resource: str, context: Mapping[str, Any]) -> Denial | None:
    service = action.partition(":")[0]
    ctx = iam_evaluator.EvalContext(
        principal_arn=principal.arn,
        principal_type=principal.type,
        principal_account=principal.account,
        action=action,
        resource_arn=resource,
        region=get_region(),
        secure_transport=True,
        service_context={key.lower(): value for key, value in context.items()},
        principal_keys=principal.keys,
    )
    result = iam_evaluator.evaluate(ctx, principal.policies or [], *principal.limits)
    policy = iam_evaluator._resource_policy(service, resource)
    if policy is not None:
        result = iam_evaluator.combine_resource_policy(
            result, ctx, *policy, required=service in iam_evaluator._POLICY_REQUIRED, limits=principal.limits
        )
    if result.decision == "Allow":
        return None
    return Denial(principal.arn, action, resource, result.decision == "Deny")


def service_denial(policy: str | dict[str, Any] | None, service: str, action: str, resource: str, source_arn: str) -> bool:
    """Whether a resource's policy keeps an AWS service out, such as ``events.amazonaws.com`` from a topic.

    Args:
        source_arn: what the service acts for: the rule, the API's method, the authorizer.
    """
    if not app.AUTH:
        return False
    account = get_account_id()
    ctx = iam_evaluator.EvalContext(
        principal_arn=service,
        principal_type="Service",
        principal_account=account,
        action=action,
        resource_arn=resource,
        region=get_region(),
        secure_transport=True,
        service_context={
            "aws:sourcearn": source_arn,
            "aws:sourceaccount": account,
            "aws:sourceowner": account,
            "aws:principalservicename": service,
            "aws:principalisawsservice": "true",
        },
    )
    return iam_evaluator.evaluate_resource_policy(policy, ctx, service=service).decision != "Allow"


def trusts(role_arn: str, service: str) -> bool:
    """Whether an AWS service may assume the role; false for a role that doesn't exist."""
    if not app.AUTH:
        return True
    role = iam_service._roles.get(role_arn.rsplit("/", 1)[-1])
    if role is None:
        return False
    policy = role.get("AssumeRolePolicyDocument")
    ctx = iam_evaluator.EvalContext(
        principal_arn=service,
        principal_type="Service",
        principal_account=get_account_id(),
        action="sts:AssumeRole",
        resource_arn="*",
        region=get_region(),
        service_context={"aws:sourceaccount": get_account_id()},
    )
    return iam_evaluator.evaluate_resource_policy(policy, ctx, service=service).decision == "Allow"


# ---------------------------------------------------------------------------------------------------------------------
# KMS behind other services

_TABLE_ACTIONS = re.compile(
    r"dynamodb:((Batch)?(Get|Write)Item|(Put|Update|Delete)Item|Query|Scan|ConditionCheckItem|PartiQL\w+)"
)


def keys_needed(action: str, resource: str) -> Iterator[tuple[str, str]]:
    """``(KMS action, key id)`` that a call also needs because its resource is encrypted with a customer's key."""
    if action in ("s3:PutObject", "s3:GetObject") and ":::" in resource:
        key = _bucket_key(resource.split(":::", 1)[1].split("/", 1)[0])
        if key:
            yield ("kms:GenerateDataKey" if action == "s3:PutObject" else "kms:Decrypt"), key
    elif _TABLE_ACTIONS.fullmatch(action):
        table = dynamodb._tables.get(resource.rsplit(":table/", 1)[-1].split("/", 1)[0]) or {}
        key = (table.get("SSEDescription") or {}).get("KMSMasterKeyArn")
        if key:
            yield "kms:Decrypt", key
    elif action == "sns:Publish":
        topic = sns._topic_by_arn_any_scope(resource) or {}
        key = topic.get("attributes", {}).get("KmsMasterKeyId")
        if key:
            yield "kms:GenerateDataKey", key
            yield "kms:Decrypt", key


def _bucket_key(bucket: str) -> str | None:
    status, _, body = s3._get_bucket_encryption(bucket)
    text = body.decode() if isinstance(body, bytes) else str(body)
    found = re.search(r"<KMSMasterKeyID>([^<]+)</KMSMasterKeyID>", text) if status == 200 else None
    return found.group(1) if found else None


def _customer_keys(action: str, resource: str) -> Iterator[tuple[str, str]]:
    """The same with key ARNs, and without AWS's own keys, which anyone in the account may use through the service."""
    for kms_action, key in keys_needed(action, resource):
        record = kms._resolve_key(key)
        if record is not None and "alias/aws/" not in key and record.get("KeyManager") != "AWS":
            yield kms_action, record["Arn"]


def _key_denial(principal: iam_evaluator.PrincipalInfo, action: str, resource: str) -> Denial | None:
    context = {
        "kms:viaservice": f"{action.partition(':')[0]}.{get_region()}.amazonaws.com",
        "kms:calleraccount": principal.account,
    }
    for kms_action, key_arn in _customer_keys(action, resource):
        refused = _denial_of(principal, kms_action, key_arn, context)
        if refused:
            return refused
    return None


def service_key_denial(service: str, action: str, resource: str, source_arn: str) -> bool:
    """Whether the key behind a resource keeps an AWS service out, such as EventBridge from an encrypted topic."""
    return any(
        service_denial((kms._resolve_key(key_arn) or {}).get("Policy"), service, kms_action, key_arn, source_arn)
        for kms_action, key_arn in _customer_keys(action, resource)
    )


# ---------------------------------------------------------------------------------------------------------------------
# SageMaker's actions and resources

# Resource type and identifying parameter by the noun of an action's name; the longest noun wins.
_SAGEMAKER_RESOURCES = {
    "TrainingJob": "training-job",
    "ProcessingJob": "processing-job",
    "EndpointConfig": "endpoint-config",
    "Endpoint": "endpoint",
    "EndpointWeightsAndCapacities": "endpoint",
    "ModelPackageGroup": "model-package-group",
    "ModelPackage": "model-package",
    "Model": "model",
}


def sagemaker_resources(action: str, parameters: Mapping[str, Any]) -> list[str]:
    """The ARNs that AWS authorises a SageMaker action on; all of them must be allowed."""
    verb_noun = re.fullmatch(r"(Create|Describe|Update|Delete|Stop|Start)([A-Z]\w+)", action.partition(":")[2])
    noun = verb_noun.group(2) if verb_noun else ""
    kind = _SAGEMAKER_RESOURCES.get(noun)
    if kind is None:
        return ["*"]
    if noun == "ModelPackage" and "ModelPackageGroupName" in parameters:
        # A new version of a group: its number isn't known before.
        group = str(parameters["ModelPackageGroupName"]).rsplit("/", 1)[-1]
        return [_sagemaker_arn("model-package", f"{group}/1"), _sagemaker_arn("model-package-group", group)]
    field = "EndpointName" if kind == "endpoint" else f"{noun}Name"
    name = str(parameters.get(field) or parameters.get(f"{noun}Arn") or "*")
    resources = [name if name.startswith("arn:") else _sagemaker_arn(kind, name)]
    if noun == "Endpoint" and "EndpointConfigName" in parameters:
        resources.append(_sagemaker_arn("endpoint-config", parameters["EndpointConfigName"]))
    return resources


def _sagemaker_arn(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{get_region()}:{get_account_id()}:{kind}/{name}"


_INVOKE_PATH = re.compile(r"/endpoints/([^/]+)/(?:async-)?invocations(-response-stream)?")


def _extract_action(original: Any) -> Any:
    def extract(
        service: str, method: str, path: str, headers: dict[str, Any], body: bytes, query_params: dict[str, Any]
    ) -> str | None:
        if service == "sagemaker" and (invoked := _INVOKE_PATH.fullmatch(path)):
            return "sagemaker:InvokeEndpoint" + ("WithResponseStream" if invoked.group(2) else "")
        return original(service, method, path, headers, body, query_params)

    return extract


def _extract_resource(original: Any) -> Any:
    def extract(
        service: str,
        method: str,
        path: str,
        headers: dict[str, Any],
        body: bytes,
        query_params: dict[str, Any],
        region: str,
        account_id: str,
    ) -> str:
        if service == "monitoring" and (alarm := (query_params or {}).get("AlarmNames.member.1")):
            name = alarm[0] if isinstance(alarm, list) else alarm
            return f"arn:aws:cloudwatch:{region}:{account_id}:alarm:{name}"
        if service != "sagemaker":
            return original(service, method, path, headers, body, query_params, region, account_id)
        if invoked := _INVOKE_PATH.fullmatch(path):
            return f"arn:aws:sagemaker:{region}:{account_id}:endpoint/{invoked.group(1)}"
        action = "sagemaker:" + headers.get("x-amz-target", "").rpartition(".")[2]
        return sagemaker_resources(action, _json_object(body))[0]

    return extract


def _json_object(body: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------
# Requests over HTTP

# The key that the last refused request may not use: MiniStack would name the service's action instead.
_refused_key: contextvars.ContextVar[Denial | None] = contextvars.ContextVar("refused_key", default=None)


def _enforce(original: Any) -> Any:
    def enforce(
        access_key_id: str,
        iam_action: str,
        service: str,
        region: str,
        resource_arn: str = "*",
        service_context: dict[str, Any] | None = None,
    ) -> Any:
        _refused_key.set(None)
        refused = original(
            access_key_id, iam_action, service, region, resource_arn=resource_arn, service_context=service_context
        )
        if refused is not None or not access_key_id:
            return refused
        principal = iam_evaluator.resolve_principal(access_key_id, get_account_id())
        if isinstance(principal, iam_evaluator.AuthError) or principal.policies is None:  # None: the account's root
            return None
        missing = _key_denial(principal, iam_action, resource_arn)
        if missing is None:
            return None
        _refused_key.set(missing)
        decision = "Deny" if missing.explicit else "ImplicitDeny"
        return iam_evaluator.EvalResult(decision, principal_arn=principal.arn)

    return enforce


def _denied_response(original: Any) -> Any:
    def respond(service: str, action: str, principal_arn: str, request_id: str, **options: Any) -> tuple[Any, ...]:
        missing = _refused_key.get()
        if missing is not None:
            options.setdefault("message", str(missing))
        return original(service, action, principal_arn, request_id, **options)

    return respond


_NAMESPACES = {name: name for name in ("sagemaker", "application-autoscaling")}


def install(patch: Patcher) -> None:
    """Evaluate SageMaker's actions and the use of KMS keys."""
    patch.replace(iam_actions, "SERVICE_TO_IAM_NAMESPACE", lambda names: names | _NAMESPACES)
    patch.replace(iam_actions, "extract_iam_action", _extract_action)
    patch.replace(iam_actions, "extract_resource_arn", _extract_resource)
    patch.replace(iam_actions, "access_denied_response", _denied_response)
    patch.replace(iam_evaluator, "enforce", _enforce)
