"""SageMaker's CloudFormation types, through MiniStack's engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_local_cloud import BUCKET, IMAGE, IMAGES, ROLE, ask, eventually, free_port, prepare, train

from ko_reranker.local.cloud import LocalCloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    root = tmp_path_factory.mktemp("cfn")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), images=IMAGES) as running:
        prepare(running)
        for reply in ("one", "two", "broken"):
            train(running, reply, HyperParameters={"reply": reply})
        yield running


def template(reply: str, instance_type: str = "ml.g5.xlarge") -> str:
    data = {
        "S3Uri": f"s3://{BUCKET}/mine/models/r1/{reply}/output/model/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    variant = {
        "VariantName": "main",
        "ModelName": {"Fn::GetAtt": ["Model", "ModelName"]},
        "InstanceType": instance_type,
        "InitialInstanceCount": "1",  # CloudFormation hands over strings
        "InitialVariantWeight": 1,
    }
    return json.dumps(
        {
            "Resources": {
                "Group": {
                    "Type": "AWS::SageMaker::ModelPackageGroup",
                    "Properties": {"ModelPackageGroupName": "models"},
                },
                "Model": {
                    "Type": "AWS::SageMaker::Model",
                    "Properties": {
                        "ExecutionRoleArn": ROLE,
                        "PrimaryContainer": {"Image": IMAGE, "ModelDataSource": {"S3DataSource": data}},
                    },
                },
                "Config": {
                    "Type": "AWS::SageMaker::EndpointConfig",
                    "Properties": {"ProductionVariants": [variant]},
                },
                "Endpoint": {
                    "Type": "AWS::SageMaker::Endpoint",
                    "Properties": {
                        "EndpointName": "stacked",
                        "EndpointConfigName": {"Fn::GetAtt": ["Config", "EndpointConfigName"]},
                        "Tags": [{"Key": "reply", "Value": reply}],
                    },
                },
            },
            "Outputs": {"Name": {"Value": {"Fn::GetAtt": ["Endpoint", "EndpointName"]}}},
        }
    )


def apply(cloud: LocalCloud, operation: str, body: str) -> dict[str, Any]:
    """Create or update the stack; return how it ended."""
    client = cloud.client("cloudformation")
    getattr(client, operation)(StackName="serving", TemplateBody=body)

    def over() -> dict[str, Any] | None:
        stack = client.describe_stacks(StackName="serving")["Stacks"][0]
        return None if stack["StackStatus"].endswith("IN_PROGRESS") else stack

    return eventually(over)


def test_a_stack_of_model_and_endpoint_lives_through_its_changes(cloud: LocalCloud) -> None:
    sagemaker = cloud.client("sagemaker")
    stack = apply(cloud, "create_stack", template("one"))
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    assert stack["Outputs"][0]["OutputValue"] == "stacked"
    assert ask(cloud, "stacked")["reply"] == "one"
    first = sagemaker.list_models()["Models"][0]["ModelName"]

    stack = apply(cloud, "update_stack", template("two"))
    assert stack["StackStatus"] == "UPDATE_COMPLETE", stack
    assert ask(cloud, "stacked")["reply"] == "two"
    models = [m["ModelName"] for m in sagemaker.list_models()["Models"]]
    assert len(models) == 1, "the replaced model is deleted in the cleanup"
    assert models != [first], "a replacement has a new name"
    tags = sagemaker.list_tags(ResourceArn=sagemaker.describe_endpoint(EndpointName="stacked")["EndpointArn"])["Tags"]
    assert {"Key": "reply", "Value": "two"} in tags

    stack = apply(cloud, "update_stack", template("broken"))
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE", stack
    assert ask(cloud, "stacked")["reply"] == "two"

    stack = apply(cloud, "update_stack", template("two", instance_type="ml.g6.xlarge"))
    assert stack["StackStatus"] == "UPDATE_COMPLETE", stack
    assert ask(cloud, "stacked")["reply"] == "two"

    cloud.client("cloudformation").delete_stack(StackName="serving")
    eventually(lambda: not sagemaker.list_endpoints()["Endpoints"])
    eventually(lambda: not sagemaker.list_models()["Models"])
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
