"""What is kept of single requests is a setting, and the same however a configuration is made."""

from __future__ import annotations

import json

from synthesis import Templates, synthesise
from template_differences import machines, statements
from test_templates import resources

from cdk.variants import VARIANTS


def test_calls_are_stored_under_the_key_whoever_makes_the_configuration(everything: Templates) -> None:
    ((_, config),) = list(resources(everything, "AWS::SageMaker::EndpointConfig"))
    states = dict(machines(everything["serving"]))["deploy"]["States"]
    made = states["Create the endpoint configuration"]["Parameters"]["DataCaptureConfig"]
    stack = config["Properties"]["DataCaptureConfig"]
    assert made.keys() == stack.keys()
    key = VARIANTS["everything"]["data.key_arn"]
    for item in (made, stack):
        assert (item["EnableCapture"], item["InitialSamplingPercentage"]) == (True, 5)
        assert [option["CaptureMode"] for option in item["CaptureOptions"]] == ["Input", "Output"]
        assert "captured/" in json.dumps(item["DestinationS3Uri"]) and item["KmsKeyId"] == key
    role = [json.loads(s) for who, _, s in statements(everything["serving"]) if who == "EndpointRole"]
    assert any("s3:PutObject" in s["Action"] and "captured/*" in json.dumps(s["Resource"]) for s in role)


def test_what_is_stored_expires(everything: Templates) -> None:
    rules = [
        rule
        for _, bucket in resources({"data": everything["data"]}, "AWS::S3::Bucket")
        for rule in bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    ]
    assert [rule["ExpirationInDays"] for rule in rules if rule.get("Prefix") == "captured/"] == [7]


def test_by_default_no_text_of_a_caller_is_stored(prod: Templates) -> None:
    assert "DataCaptureConfig" not in json.dumps(prod) and "captured/" not in json.dumps(prod)


def test_traces_are_a_setting(prod: Templates) -> None:
    untraced, _ = synthesise("prod", **{"recording.tracing": "false"})
    for templates, traced in ((prod, True), (untraced, False)):
        ((_, stage),) = list(resources(templates, "AWS::ApiGateway::Stage"))
        assert stage["Properties"]["TracingEnabled"] is traced
        for _, machine in resources(templates, "AWS::StepFunctions::StateMachine"):
            assert machine["Properties"].get("TracingConfiguration", {}).get("Enabled", False) is traced
        assert ("xray:" in json.dumps(templates)) is traced
