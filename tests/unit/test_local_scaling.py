"""Application Auto Scaling in the local cloud: what it takes, what it refuses, and what goes with an endpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.scaling import Scaling
from local_cloud.sagemaker.store import Store

VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/e/variant/main",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
BOUNDS = {"MinCapacity": 1, "MaxCapacity": 4}
TRACKING = {
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 8,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    },
}
HOURS = {"ScheduledActionName": "night", "Schedule": "cron(0 20 * * ? *)", "ScalableTargetAction": BOUNDS}


@pytest.fixture
def scaling(tmp_path: Path) -> Scaling:
    def describe(request: dict[str, Any]) -> dict[str, Any]:
        if request["EndpointName"] != "e":
            raise ApiError("ValidationException", f'Could not find endpoint "{request["EndpointName"]}".')
        return {"ProductionVariants": [{"VariantName": "main"}]}

    context = SimpleNamespace(
        store=Store(tmp_path / "store.json"), settings=SimpleNamespace(region="ap-northeast-2", account_id="1")
    )
    return Scaling(context, SimpleNamespace(describe=describe))


def test_a_variant_of_an_endpoint_is_scaled_until_it_is_deregistered(scaling: Scaling) -> None:
    scaling.call("RegisterScalableTarget", {**VARIANT, **BOUNDS})
    arn = scaling.call("PutScalingPolicy", {**VARIANT, **TRACKING, "PolicyName": "p"})["PolicyARN"]
    assert arn.endswith(":resource/sagemaker/endpoint/e/variant/main:policyName/p")
    scaling.call("PutScheduledAction", {**VARIANT, **HOURS})
    assert scaling.is_target("e") and not scaling.is_target("other")
    [target] = scaling.call("DescribeScalableTargets", {"ServiceNamespace": "sagemaker"})["ScalableTargets"]
    assert {key: target[key] for key in BOUNDS} == BOUNDS
    # One that is there is changed, and keeps what it isn't told.
    scaling.call("RegisterScalableTarget", {**VARIANT, "MaxCapacity": 6})
    [target] = scaling.call("DescribeScalableTargets", {"ServiceNamespace": "sagemaker"})["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 6)
    scaling.call("DeregisterScalableTarget", VARIANT)
    for operation in ("DescribeScalableTargets", "DescribeScalingPolicies", "DescribeScheduledActions"):
        assert not any(scaling.call(operation, {"ServiceNamespace": "sagemaker"}).values())


@pytest.mark.parametrize(
    ("operation", "request_", "code", "says"),
    [
        ("RegisterScalableTarget", {**VARIANT}, "ValidationException", "MinCapacity is required"),
        ("RegisterScalableTarget", {**VARIANT, "MinCapacity": 3, "MaxCapacity": 2}, "ValidationException", "Maximum capacity"),
        (
            "RegisterScalableTarget",
            {**VARIANT, **BOUNDS, "ResourceId": "endpoint/away/variant/main"},
            "ValidationException",
            "Could not find endpoint",
        ),
        (
            "RegisterScalableTarget",
            {**VARIANT, **BOUNDS, "ResourceId": "endpoint/e/variant/other"},
            "ValidationException",
            "Could not find variant",
        ),
        ("PutScalingPolicy", {**VARIANT, **TRACKING, "PolicyName": "p"}, "ObjectNotFoundException", "No scalable target"),
        ("PutScheduledAction", {**VARIANT, **HOURS}, "ObjectNotFoundException", "No scalable target registered"),
        ("DeregisterScalableTarget", VARIANT, "ObjectNotFoundException", "No scalable target registered for service"),
        ("DeregisterScalableTarget", {}, "ValidationException", "3 validation errors detected"),
    ],
)
def test_what_the_service_refuses_is_refused(
    scaling: Scaling, operation: str, request_: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        scaling.call(operation, request_)
    assert refused.value.code == code


def test_one_metric_has_one_policy(scaling: Scaling) -> None:
    scaling.call("RegisterScalableTarget", {**VARIANT, **BOUNDS})
    scaling.call("PutScalingPolicy", {**VARIANT, **TRACKING, "PolicyName": "p"})
    scaling.call("PutScalingPolicy", {**VARIANT, **TRACKING, "PolicyName": "p"})
    with pytest.raises(ApiError, match="Only one TargetTrackingScaling policy"):
        scaling.call("PutScalingPolicy", {**VARIANT, **TRACKING, "PolicyName": "q"})
