"""A stage that has been used can be taken away, whole: by the CDK itself, and by the command that also stops what runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed_stage import free_port
from stub_stage import StubStage

from ko_reranker.operations import destroying, executions
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import STACKS

pytestmark = pytest.mark.slow
# There is no such model.
VARIANT = {"VariantName": "main", "ModelName": "nobody", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
BROKEN = {"Type": "AWS::SageMaker::EndpointConfig", "Properties": {"ProductionVariants": [VARIANT]}}


@pytest.fixture
def used(tmp_path: Path) -> Iterator[StubStage]:
    """A stage with what use leaves: objects in several versions, packages, a released model."""
    stub = StubStage(tmp_path, free_port(), free_port())
    with stub.cloud:
        stub.deploy()
        assert stub.retrain().succeeded
        released = stub.release()
        assert released and released.succeeded
        s3, bucket = stub.cloud.client("s3"), stub.stage.output("DataBucket")
        s3.put_object(Bucket=bucket, Key="raw/sample/records.jsonl", Body=b"{}\n")
        s3.delete_object(Bucket=bucket, Key="raw/sample/records.jsonl")
        assert list(destroying.left_over(stub.stage))
        yield stub


def assert_nothing_is_left(stub: StubStage, *but: str) -> None:
    assert list(destroying.left_over(stub.stage)) == list(but)
    sagemaker = stub.cloud.client("sagemaker")
    assert not sagemaker.list_models()["Models"]
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
    assert not [b for b in stub.cloud.client("s3").list_buckets()["Buckets"] if stub.stage.prefix in b["Name"]]


def stack_states(stub: StubStage) -> dict[str, str]:
    """The state of each stack of the stage, by its name."""
    found = stub.cloud.client("cloudformation").describe_stacks()["Stacks"]
    own = {stack["StackName"].removeprefix(f"{stub.stage.prefix}-"): stack["StackStatus"] for stack in found}
    return {name: own[name] for name in STACKS}


def test_a_used_stage_is_updated_goes_back_is_destroyed_and_comes_back(used: StubStage, tmp_path: Path) -> None:
    live = used.stage.live_model()
    # An update, by the CDK itself.
    later = tmp_path / "later"
    used.cdk("synth", "--quiet", "--context", "stage=local", "--context", "api.memory_mb=512", "--output", str(later))
    used.cdk("deploy", "--all", "--app", str(later))
    assert set(stack_states(used).values()) <= {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    assert rerank_memory(used) == 512 and not used.ask() and used.stage.live_model() == live

    # One that fails once all else is done goes back, in each stack, and what answers is what answered before.
    for stack in ("data", "serving", "api"):
        template = json.loads((later / f"{used.stage.prefix}-{stack}.template.json").read_text())
        others = list(template["Resources"])
        for item in template["Resources"].values():
            if item["Type"] == "AWS::Lambda::Function":
                item["Properties"]["MemorySize"] = 256
        template["Resources"]["Broken"] = {**BROKEN, "DependsOn": others}
        assert used.update(stack, template)
        assert stack_states(used)[stack] == "UPDATE_ROLLBACK_COMPLETE"
    assert rerank_memory(used) == 512 and not used.ask() and used.stage.live_model() == live

    used.cdk("destroy", "--all", "--force", "--app", str(later))
    # SageMaker made it, so that no stack has it.
    assert_nothing_is_left(used, f"log group /aws/sagemaker/Endpoints/{used.stage.prefix}")

    shutil.rmtree(used.assembly)
    used.deploy()
    assert set(stack_states(used).values()) == {"CREATE_COMPLETE"}
    assert rerank_memory(used) == 1024 and not used.ask()
    assert used.retrain().succeeded


def rerank_memory(stub: StubStage) -> int:
    """Megabytes of the rerank function."""
    functions = stub.cloud.client("lambda").list_functions()["Functions"]
    (memory,) = [item["MemorySize"] for item in functions if f"{stub.stage.prefix}-api-Rerank" in item["FunctionName"]]
    return memory


def test_the_command_takes_a_used_stage_away_while_it_works(used: StubStage) -> None:
    # The one that runs waits for a release that nobody approves.
    running = executions.start(used.stage, "RetrainStateMachine", {"dataset": "sample"}, "stopped")
    steps: list[str] = []

    class Step:
        def __init__(self, name: str) -> None:
            steps.append(name)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    plan = destroying.plan(used.stage)
    # The role that lets API Gateway write logs is the account's, for every API there is.
    assert {item.kind for item in plan.kept} == {"AWS::IAM::Role", "AWS::ApiGateway::Account"}
    assert not plan.keeps_data and not plan.protected
    destroying.destroy(plan, step=Step)
    assert executions.outcome(used.stage, running).status in ("ABORTED", "FAILED")
    order = [name.rpartition("-")[2] for name in steps if name.startswith("Delete the stack")]
    assert order == ["observability", "api", "serving", "pipeline", "data"]
    assert_nothing_is_left(used)
    # Twice does no harm, and says that there is nothing.
    assert destroying.plan(used.stage).stacks == []
    destroying.destroy(destroying.plan(used.stage))


def test_what_is_refused_is_told_and_the_same_command_goes_on(used: StubStage) -> None:
    template = used.templates["serving"]
    # Without the right to delete it the endpoint's configurations stay, and the stack says so.
    for item in template["Resources"].values():
        if item["Type"] == "AWS::IAM::Policy":
            for statement in item["Properties"]["PolicyDocument"]["Statement"]:
                if statement["Action"] == "sagemaker:DeleteEndpointConfig":
                    statement["Action"] = "sagemaker:DescribeEndpointConfig"
    assert not used.update("serving", template)
    with pytest.raises(OperationError, match=r"ko-reranker-local-serving can't be deleted: CleanUp.*DeleteEndpointConfig"):
        destroying.destroy(destroying.plan(used.stage))
    destroying.delete_released(used.cloud.client("sagemaker"), used.stage.prefix)
    destroying.destroy(destroying.plan(used.stage))
    assert_nothing_is_left(used)
