"""The local SageMaker refuses what SageMaker refuses, in its words."""

from __future__ import annotations

from typing import Any

import pytest

from local_cloud.sagemaker.errors import ApiError
from local_cloud.sagemaker.validation import coerce, service_model, validate

VALID: dict[str, Any] = {
    "EndpointConfigName": "config",
    "ProductionVariants": [
        {"VariantName": "main", "ModelName": "model", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
    ],
}


def refusal(request: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        validate("CreateEndpointConfig", request)
    return caught.value


def variant(**changes: Any) -> dict[str, Any]:
    return {**VALID, "ProductionVariants": [{**VALID["ProductionVariants"][0], **changes}]}


def test_a_good_request_passes() -> None:
    validate("CreateEndpointConfig", VALID)


def test_every_violation_is_reported_at_once_with_its_place() -> None:
    error = refusal({**variant(InstanceType="ml.toaster"), "EndpointConfigName": "no spaces"})
    assert error.code == "ValidationException"
    assert error.message.startswith("2 validation errors detected: Value 'no spaces' at 'endpointConfigName' failed")
    assert "Value 'ml.toaster' at 'productionVariants.1.member.instanceType' failed" in error.message
    assert "Member must satisfy enum value set: [" in error.message


def test_a_missing_member_is_null() -> None:
    assert refusal({"ProductionVariants": VALID["ProductionVariants"]}).message == (
        "1 validation error detected: Value null at 'endpointConfigName' failed to satisfy constraint: Member must not be null"
    )


def test_ranges_are_checked() -> None:
    validate("CreateEndpointConfig", variant(InitialInstanceCount=1))
    message = refusal(variant(InitialInstanceCount=0)).message
    assert message.endswith("Member must have value greater than or equal to 1")


def test_a_wrong_type_cannot_be_converted() -> None:
    assert refusal(variant(InitialInstanceCount="1")).code == "SerializationException"
    assert refusal(variant(InitialInstanceCount=True)).message.startswith("TRUE_VALUE cannot be converted to integer")


def test_a_misspelt_member_is_named_with_its_alternatives() -> None:
    error = refusal(variant(InstancType="ml.g5.xlarge"))
    assert "Unknown parameter 'InstancType' at 'productionVariants.1.member'" in error.message
    assert "InstanceType" in error.message


def test_cloudformation_strings_become_what_the_api_takes() -> None:
    shape = service_model().operation_model("CreateEndpointConfig").input_shape
    given = variant(InitialInstanceCount="2", InitialVariantWeight="0.5")
    coerced = coerce({**given, "NotInTheApi": 1}, shape)
    assert coerced["ProductionVariants"][0]["InitialInstanceCount"] == 2
    assert coerced["ProductionVariants"][0]["InitialVariantWeight"] == 0.5
    assert "NotInTheApi" not in coerced
    validate("CreateEndpointConfig", coerced)
