"""SageMaker's CloudFormation types, through MiniStack's engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_local_cloud import BUCKET, IMAGE, IMAGES, ROLE, ask, eventually, free_port, prepare, train

from ko_reranker.cleanup import delete_packages, empty_bucket
from local_cloud.cloud import LocalCloud


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


def refusal(cloud: LocalCloud, name: str) -> str:
    """Delete a stack; return why that failed."""
    client = cloud.client("cloudformation")
    client.delete_stack(StackName=name)
    stack = eventually(lambda: _settled(client, name))
    assert stack == "DELETE_FAILED"
    events = client.describe_stack_events(StackName=name)["StackEvents"]
    return "\n".join(event.get("ResourceStatusReason", "") for event in events if event["ResourceStatus"] == "DELETE_FAILED")


def _settled(client: Any, name: str) -> str | None:
    try:
        status = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
    except client.exceptions.ClientError:
        return "DELETE_COMPLETE"
    return None if status.endswith("IN_PROGRESS") else status


@pytest.mark.parametrize("versioned", [True, False])
def test_a_bucket_with_anything_in_it_is_not_deleted(cloud: LocalCloud, versioned: bool) -> None:
    client, s3 = cloud.client("cloudformation"), cloud.client("s3")
    stack, bucket = f"bucket-{versioned}".lower(), f"full-{versioned}".lower()
    versioning = {"VersioningConfiguration": {"Status": "Enabled"}} if versioned else {}
    resource = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": bucket, **versioning}}
    client.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": {"Bucket": resource}}))
    assert eventually(lambda: _settled(client, stack)) == "CREATE_COMPLETE"
    s3.put_object(Bucket=bucket, Key="a", Body=b"1")
    if versioned:  # what is left then is a version and a delete marker
        s3.delete_object(Bucket=bucket, Key="a")
    assert "not empty" in refusal(cloud, stack)
    assert empty_bucket(s3, bucket) == (2 if versioned else 1)
    client.delete_stack(StackName=stack)
    assert eventually(lambda: _settled(client, stack)) == "DELETE_COMPLETE"
    assert empty_bucket(s3, bucket) == 0, "it is gone"


def test_a_package_group_with_packages_is_not_deleted(cloud: LocalCloud) -> None:
    client, sagemaker = cloud.client("cloudformation"), cloud.client("sagemaker")
    group = {"Type": "AWS::SageMaker::ModelPackageGroup", "Properties": {"ModelPackageGroupName": "full"}}
    client.create_stack(StackName="registry", TemplateBody=json.dumps({"Resources": {"Group": group}}))
    assert eventually(lambda: _settled(client, "registry")) == "CREATE_COMPLETE"
    sagemaker.create_model_package(
        ModelPackageGroupName="full",
        InferenceSpecification={
            "Containers": [{"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/x"}],
            "SupportedContentTypes": ["application/json"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    assert "contains model packages" in refusal(cloud, "registry")
    assert delete_packages(sagemaker, "full") == 1
    client.delete_stack(StackName="registry")
    assert eventually(lambda: _settled(client, "registry")) == "DELETE_COMPLETE"
    assert delete_packages(sagemaker, "full") == 0, "it is gone"


def test_what_a_resource_depends_on_stays_when_that_cannot_be_deleted(cloud: LocalCloud) -> None:
    client, s3 = cloud.client("cloudformation"), cloud.client("s3")
    resources = {
        "Group": {"Type": "AWS::SageMaker::ModelPackageGroup", "Properties": {"ModelPackageGroupName": "needed"}},
        "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "in-the-way"}, "DependsOn": "Group"},
    }
    client.create_stack(StackName="held", TemplateBody=json.dumps({"Resources": resources}))
    assert eventually(lambda: _settled(client, "held")) == "CREATE_COMPLETE"
    s3.put_object(Bucket="in-the-way", Key="a", Body=b"a")

    assert "not empty" in refusal(cloud, "held")
    groups = cloud.client("sagemaker").list_model_package_groups(NameContains="needed")["ModelPackageGroupSummaryList"]
    assert [group["ModelPackageGroupName"] for group in groups] == ["needed"]

    s3.delete_object(Bucket="in-the-way", Key="a")
    client.delete_stack(StackName="held")
    assert eventually(lambda: _settled(client, "held")) == "DELETE_COMPLETE"
    assert not cloud.client("sagemaker").list_model_package_groups(NameContains="needed")["ModelPackageGroupSummaryList"]
