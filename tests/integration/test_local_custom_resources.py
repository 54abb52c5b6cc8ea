"""The stage's custom resources, with their own functions and roles, in CloudFormation's hands."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_sns as sns
from test_local_cloud import BUCKET, IMAGE, IMAGES, ROLE, ask, eventually, free_port, prepare, train

from cdk.constructs.clean_up import CleanUp
from cdk.constructs.release_guard import ReleaseGuard
from cdk.constructs.release_lock import LOCK_ID
from cdk.constructs.stores import DataKey, RecordTable
from ko_reranker.settings import load_settings
from local_cloud.cloud import LocalCloud

CONTEXT = json.loads((Path(__file__).parents[2] / "cdk.json").read_text())["context"]
ASSETS = "assets"
Fill = Callable[[cdk.Stack], None]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    root = tmp_path_factory.mktemp("custom")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), images=IMAGES) as running:
        prepare(running)
        train(running, "one", HyperParameters={"reply": "one"})
        region = {"LocationConstraint": "ap-northeast-2"}
        running.client("s3").create_bucket(Bucket=ASSETS, CreateBucketConfiguration=region)
        yield running


def deploy(cloud: LocalCloud, name: str, *fill: Fill) -> str:
    """Create or update a stack of what the functions put into it; return its status at the end."""
    app = cdk.App()
    synthesizer = cdk.DefaultStackSynthesizer(file_assets_bucket_name=ASSETS, generate_bootstrap_version_rule=False)
    stack = cdk.Stack(app, name, synthesizer=synthesizer, env=cdk.Environment(region="ap-northeast-2"))
    for each in fill:
        each(stack)
    folder = Path(app.synth().directory)
    for asset in json.loads((folder / f"{name}.assets.json").read_text())["files"].values():
        if asset["source"]["packaging"] == "zip":
            [destination] = asset["destinations"].values()
            body = zipped(folder / asset["source"]["path"])
            cloud.client("s3").put_object(Bucket=ASSETS, Key=destination["objectKey"], Body=body)
    client = cloud.client("cloudformation")
    known = [item["StackName"] for item in client.describe_stacks()["Stacks"]]
    apply = client.update_stack if name in known else client.create_stack
    template = (folder / f"{name}.template.json").read_text()
    apply(StackName=name, TemplateBody=template, Capabilities=["CAPABILITY_IAM"])
    return ended(cloud, name)


def zipped(folder: Path) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        for path in sorted(folder.rglob("*.py")):
            code.write(path, path.relative_to(folder))
    return archive.getvalue()


def ended(cloud: LocalCloud, name: str) -> str:
    client = cloud.client("cloudformation")

    def status() -> str | None:
        try:
            found = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        except client.exceptions.ClientError:
            return "DELETE_COMPLETE"
        return None if found.endswith("IN_PROGRESS") else found

    return eventually(status, 120)


def events(cloud: LocalCloud, name: str) -> list[str]:
    found = cloud.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
    return [f"{item['LogicalResourceId']} {item['ResourceStatus']} {item.get('ResourceStatusReason', '')}" for item in found]


# ---------------------------------------------------------------- what empties a stage


def bucket(stack: cdk.Stack) -> None:
    s3.Bucket(stack, "Data", bucket_name="used", versioned=True, removal_policy=cdk.RemovalPolicy.DESTROY)


def clean_up(stack: cdk.Stack) -> None:
    data = stack.node.find_child("Data")
    assert isinstance(data, s3.Bucket)
    CleanUp(stack, "CleanUp", buckets=[data])


def failing_after(*names: str) -> Fill:
    def fail(stack: cdk.Stack) -> None:
        endpoint = sagemaker.CfnEndpoint(stack, "Broken", endpoint_config_name="there-is-none")
        for name in names:
            endpoint.node.add_dependency(stack.node.find_child(name))

    return fail


def test_a_used_bucket_is_emptied_with_its_stack_and_by_no_update(cloud: LocalCloud) -> None:
    client = cloud.client("s3")

    def versions() -> int:
        return len(client.list_object_versions(Bucket="used").get("Versions", []))

    assert deploy(cloud, "stage", bucket) == "CREATE_COMPLETE"
    client.put_object(Bucket="used", Key="raw/data.jsonl", Body=b"{}")
    # The first deploy of a release that has it, into a used stage, fails for another reason.
    assert deploy(cloud, "stage", bucket, clean_up, failing_after("CleanUp")) == "UPDATE_ROLLBACK_COMPLETE"
    assert versions() == 1, events(cloud, "stage")
    assert deploy(cloud, "stage", bucket, clean_up) == "UPDATE_COMPLETE"
    # Another release goes without it.
    assert deploy(cloud, "stage", bucket) == "UPDATE_COMPLETE"
    assert versions() == 1
    assert "stage UPDATE_COMPLETE_CLEANUP_IN_PROGRESS " in events(cloud, "stage")
    assert deploy(cloud, "stage", bucket, clean_up) == "UPDATE_COMPLETE"
    cloud.client("cloudformation").delete_stack(StackName="stage")
    assert ended(cloud, "stage") == "DELETE_COMPLETE"
    assert "used" not in [item["Name"] for item in client.list_buckets()["Buckets"]]


# ---------------------------------------------------------------- what keeps deploys and releases apart


def serving(instance_type: str) -> Fill:
    def fill(stack: cdk.Stack) -> None:
        destroy = cdk.RemovalPolicy.DESTROY
        key = DataKey(stack, "Key", description="", removal_policy=destroy)
        releases = RecordTable(stack, "Releases", key=key, removal_policy=destroy)
        table = releases.table.node.default_child
        assert isinstance(table, dynamodb.CfnTable)
        table.table_name = "releases"
        source = {
            "s3Uri": f"s3://{BUCKET}/mine/models/r1/one/output/model/",
            "s3DataType": "S3Prefix",
            "compressionType": "None",
        }
        container = {"image": IMAGE, "modelDataSource": {"s3DataSource": source}}
        model = sagemaker.CfnModel(stack, "Model", execution_role_arn=ROLE, primary_container=container)  # type: ignore[arg-type]
        variant = {
            "variantName": "main",
            "modelName": model.attr_model_name,
            "instanceType": instance_type,
            "initialInstanceCount": 1,
            "initialVariantWeight": 1,
        }
        config = sagemaker.CfnEndpointConfig(stack, "Config", production_variants=[variant])  # type: ignore[list-item]
        name = config.attr_endpoint_config_name
        endpoint = sagemaker.CfnEndpoint(stack, "Endpoint", endpoint_name="guarded", endpoint_config_name=name)
        settings = load_settings({**CONTEXT, "stage": "local"})
        guarded = {"EndpointConfig": name}
        guard = ReleaseGuard(stack, "Guard", settings=settings, releases=releases, endpoint="guarded", guarded=guarded)
        endpoint.node.add_dependency(guard.resource)

    return fill


def topic(stack: cdk.Stack) -> None:
    sns.Topic(stack, "Another")


def start_release(cloud: LocalCloud) -> str:
    """A release that goes on and on; return its execution's ARN."""
    client, iam = cloud.client("stepfunctions"), cloud.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName="release", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    definition = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 3_000, "End": True}}}
    machine = client.create_state_machine(
        name="ko-reranker-local-deploy", definition=json.dumps(definition), roleArn=role["Role"]["Arn"]
    )
    return client.start_execution(stateMachineArn=machine["stateMachineArn"])["executionArn"]


def test_a_deploy_does_not_change_the_endpoint_while_a_release_holds_the_lock(cloud: LocalCloud) -> None:
    endpoints, machine = cloud.client("sagemaker"), cloud.client("stepfunctions")
    items = cloud.client("dynamodb")

    def state() -> tuple[str, list[Any]]:
        record = sorted(items.scan(TableName="releases")["Items"], key=lambda item: item["id"]["S"])
        return endpoints.describe_endpoint(EndpointName="guarded")["EndpointConfigName"], record

    assert deploy(cloud, "serving", serving("ml.g5.xlarge")) == "CREATE_COMPLETE", events(cloud, "serving")
    execution = start_release(cloud)
    items.put_item(TableName="releases", Item={"id": {"S": LOCK_ID}, "execution": {"S": execution}})
    items.put_item(TableName="releases", Item={"id": {"S": "arn:live"}, "status": {"S": "live"}})
    before = state()

    assert deploy(cloud, "serving", serving("ml.g6.xlarge")) == "UPDATE_ROLLBACK_COMPLETE", "what goes back passes the lock"
    [reason] = [line for line in events(cloud, "serving") if "UPDATE_FAILED" in line]
    assert f"A release is under way, execution {execution}: deploy again when it is done" in reason
    assert state() == before
    assert ask(cloud, "guarded")["reply"] == "one"

    # What leaves the endpoint alone doesn't ask.
    assert deploy(cloud, "serving", serving("ml.g5.xlarge"), topic) == "UPDATE_COMPLETE"
    assert state() == before

    # An aborted execution couldn't give its lock back.
    machine.stop_execution(executionArn=execution)
    assert deploy(cloud, "serving", serving("ml.g6.xlarge"), topic) == "UPDATE_COMPLETE", events(cloud, "serving")
    assert state()[0] != before[0]
    items.delete_item(TableName="releases", Key={"id": {"S": LOCK_ID}})
    assert deploy(cloud, "serving", serving("ml.g5.xlarge"), topic) == "UPDATE_COMPLETE", events(cloud, "serving")
