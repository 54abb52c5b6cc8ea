"""Where SageMaker refuses, or tells more than one would think, the local cloud does, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from test_local_cloud import BUCKET, IMAGE, IMAGES, ROLE, deploy_model, free_port, prepare, settled, train, training_request

from local_cloud.cloud import LocalCloud

ALARM = {
    "MetricName": "Invocation5XXErrors",
    "Namespace": "AWS/SageMaker",
    "Statistic": "Sum",
    "Period": 60,
    "Threshold": 3,
    "ComparisonOperator": "GreaterThanThreshold",
    "EvaluationPeriods": 1,
    "TreatMissingData": "notBreaching",
}
CANARY = {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 0}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    root = tmp_path_factory.mktemp("strict")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), images=IMAGES) as running:
        prepare(running)
        yield running


def container(uri: str) -> dict[str, Any]:
    source = {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
    return {"Image": IMAGE, "ModelDataSource": {"S3DataSource": source}}


def test_a_training_answers_without_the_slash_that_a_models_prefix_needs(cloud: LocalCloud) -> None:
    sagemaker = cloud.client("sagemaker")
    artifact = train(cloud, "slash")["ModelArtifacts"]["S3ModelArtifacts"]
    assert not artifact.endswith("/")
    sagemaker.create_model_package_group(ModelPackageGroupName="slashes")
    inference = {"SupportedContentTypes": ["application/json"], "SupportedResponseMIMETypes": ["application/json"]}

    def register(uri: str) -> str:
        specification = {"Containers": [container(uri)], **inference}
        return sagemaker.create_model_package(ModelPackageGroupName="slashes", InferenceSpecification=specification)

    with pytest.raises(ClientError, match="must end with a forward slash"):
        register(artifact)
    with pytest.raises(ClientError, match="must end with a forward slash"):
        sagemaker.create_model(ModelName="slash", ExecutionRoleArn=ROLE, PrimaryContainer=container(artifact))
    register(f"{artifact}/")
    sagemaker.create_model(ModelName="slash", ExecutionRoleArn=ROLE, PrimaryContainer=container(f"{artifact}/"))


def test_a_job_whose_role_may_not_encrypt_its_output_is_refused(cloud: LocalCloud) -> None:
    key = cloud.client("kms").create_key()["KeyMetadata"]["Arn"]
    output = {"S3OutputPath": f"s3://{BUCKET}/mine/models/r9", "KmsKeyId": key}
    with pytest.raises(ClientError, match="kms:Encrypt"):
        cloud.client("sagemaker").create_training_job(**training_request("encrypted", OutputDataConfig=output))
    processing = {
        "ProcessingJobName": "encrypted",
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}},
        "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": ["process"]},
        "RoleArn": ROLE,
        "ProcessingOutputConfig": {"KmsKeyId": key, "Outputs": []},
    }
    with pytest.raises(ClientError, match="kms:Encrypt"):
        cloud.client("sagemaker").create_processing_job(**processing)


def test_an_update_with_alarms_that_the_endpoints_role_may_not_see_is_refused(cloud: LocalCloud) -> None:
    sagemaker = cloud.client("sagemaker")
    deploy_model(cloud, "seen")
    sagemaker.create_endpoint(EndpointName="seen", EndpointConfigName="seen")
    settled(cloud, "seen")
    for name in ("watched-errors", "hidden-errors"):
        cloud.client("cloudwatch").put_metric_alarm(AlarmName=name, **ALARM)

    def update(alarm: str) -> None:
        rollback = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}
        routing = {
            "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}
        }
        sagemaker.update_endpoint(EndpointName="seen", EndpointConfigName="seen", DeploymentConfig={**routing, **rollback})

    with pytest.raises(ClientError, match=r"cloudwatch:DescribeAlarms on resource: .*hidden-errors"):
        update("hidden-errors")
    update("watched-errors")
    settled(cloud, "seen")


def test_a_canary_of_more_than_half_of_the_instances_that_stay_is_refused(cloud: LocalCloud) -> None:
    """A configuration of two instances doesn't help an endpoint that retains its one."""
    sagemaker = cloud.client("sagemaker")
    deploy_model(cloud, "single")
    variant = {"VariantName": "main", "ModelName": "single", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 2}
    sagemaker.create_endpoint_config(EndpointConfigName="double", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="grown", EndpointConfigName="single")
    settled(cloud, "grown")
    request = {
        "EndpointName": "grown",
        "EndpointConfigName": "double",
        "RetainAllVariantProperties": True,
        "DeploymentConfig": {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": CANARY}},
    }
    with pytest.raises(ClientError, match="at most half of the variant's instances; variant main has 1"):
        sagemaker.update_endpoint(**request)
    sagemaker.update_endpoint(**request, ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredInstanceCount"}])
    endpoint = settled(cloud, "grown")
    assert endpoint["ProductionVariants"][0]["DesiredInstanceCount"] == 2


def test_an_approved_packages_event_comes_again_when_its_metadata_is_edited(cloud: LocalCloud) -> None:
    sagemaker, events, sqs = cloud.client("sagemaker"), cloud.client("events"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="edits")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    approved = {"ModelPackageGroupName": ["edited"], "ModelApprovalStatus": ["Approved"]}
    fields = "UpdatedModelPackageFields"
    told = {**approved, "$or": [{fields: ["ModelApprovalStatus"]}, {fields: [{"exists": False}]}]}
    for name, detail in (("all", approved), ("new", told)):
        pattern = {"source": ["aws.sagemaker"], "detail-type": ["SageMaker Model Package State Change"], "detail": detail}
        events.put_rule(Name=name, EventPattern=json.dumps(pattern))
        target = {"Id": "queue", "Arn": arn, "InputTransformer": {
            "InputPathsMap": {"version": "$.detail.ModelPackageVersion"}, "InputTemplate": f'"{name} <version>"'
        }}  # fmt: skip
        events.put_targets(Rule=name, Targets=[target])

    sagemaker.create_model_package_group(ModelPackageGroupName="edited")
    inference = {"Containers": [{"Image": IMAGE}], "SupportedContentTypes": [], "SupportedResponseMIMETypes": []}
    first, second = (
        sagemaker.create_model_package(
            ModelPackageGroupName="edited", InferenceSpecification=inference, ModelApprovalStatus=status
        )["ModelPackageArn"]
        for status in ("Approved", "PendingManualApproval")
    )
    sagemaker.update_model_package(ModelPackageArn=second, ModelApprovalStatus="Approved")
    sagemaker.update_model_package(ModelPackageArn=first, CustomerMetadataProperties={"owner": "search"})
    sagemaker.update_model_package(ModelPackageArn=second, ApprovalDescription="looked at")
    received: list[str] = []
    for _ in range(6):
        found = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1, MaxNumberOfMessages=10).get("Messages", [])
        received += [json.loads(message["Body"]) for message in found]
        for message in found:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert sorted(received) == ["all 1", "all 1", "all 2", "all 2", "new 1", "new 2"]
