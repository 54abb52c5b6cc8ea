"""The registry's commands: only what can be made live is started, and everything else is told with the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from generative_models import decoder, qwen_tokenizer, saved, shape
from moto import mock_aws
from transformers import Qwen3Config

from ko_reranker.operations import packages
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage
from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.rankers.generative_folders import written_out
from ko_reranker.rankers.prompts import shipped_prompts

GROUP, TABLE, PARAMETER = "ko-reranker-dev", "releases", "/ko-reranker/dev/live-model"
REGION = "ap-northeast-2"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        boto3.client("sagemaker").create_model_package_group(ModelPackageGroupName=GROUP)
        boto3.client("dynamodb").create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        boto3.client("ssm").put_parameter(Name=PARAMETER, Value="none,none,none", Type="StringList")
        machine = boto3.client("stepfunctions").create_state_machine(
            name="ko-reranker-dev-deploy", definition="{}", roleArn="arn:aws:iam::123456789012:role/deploy"
        )["stateMachineArn"]
        outputs = {
            "ModelPackageGroup": GROUP,
            "ReleasesTable": TABLE,
            "LiveModelParameter": PARAMETER,
            "DeployStateMachine": machine,
        }
        yield Stage("dev", GROUP, REGION, boto3.client, _outputs=outputs)


def package(status: str, *, released: str | None = None, live: bool = False) -> str:
    """A package of a status; released at a time; live now."""
    arn = boto3.client("sagemaker").create_model_package(ModelPackageGroupName=GROUP, ModelApprovalStatus=status)[
        "ModelPackageArn"
    ]
    if released:
        item = {"id": {"S": arn}, "status": {"S": "live"}, "at": {"S": released}}
        boto3.client("dynamodb").put_item(TableName=TABLE, Item=item)
    if live:
        boto3.client("ssm").put_parameter(Name=PARAMETER, Value=f"{arn},s3://data/models/,image", Overwrite=True)
    return arn


def started(stage: Stage) -> list[str]:
    """The packages that deployments were started with."""
    client, machine = boto3.client("stepfunctions"), stage.output("DeployStateMachine")
    executions = client.list_executions(stateMachineArn=machine)["executions"]
    inputs = [client.describe_execution(executionArn=item["executionArn"])["input"] for item in executions]
    return [json.loads(text)["model_package"] for text in inputs]


def test_rollback_takes_an_approved_package_by_arn_or_version(stage: Stage) -> None:
    old = package("Approved", released="2026-01-01T00:00:00Z")
    package("Approved", released="2026-02-01T00:00:00Z", live=True)
    arn, execution = packages.rollback(stage, old)
    assert arn == old and execution.startswith("arn:")
    assert packages.rollback(stage, "1")[0] == old
    assert started(stage) == [old, old]


def test_rollback_without_a_name_takes_the_one_that_was_live_before(stage: Stage) -> None:
    package("Approved", released="2026-01-01T00:00:00Z")
    before = package("Approved", released="2026-03-01T00:00:00Z")
    package("Approved", released="2026-04-01T00:00:00Z", live=True)
    package("Approved")  # approved, and its release failed
    # What the lock leaves in the same table is no release.
    boto3.client("dynamodb").put_item(TableName=TABLE, Item={"id": {"S": "lock"}, "execution": {"S": "arn"}})
    assert packages.rollback(stage)[0] == before
    assert started(stage) == [before]


@pytest.mark.parametrize(("status", "live", "said"), [("Approved", True, "live already"), ("Rejected", False, "Rejected")])
def test_what_cannot_be_made_live_starts_nothing(stage: Stage, status: str, live: bool, said: str) -> None:
    arn = package(status, live=live)
    with pytest.raises(OperationError, match=said):
        packages.rollback(stage, arn)
    assert not started(stage)


def test_rollback_with_nothing_to_go_back_to_asks_for_a_name(stage: Stage) -> None:
    package("Approved", released="2026-01-01T00:00:00Z", live=True)
    with pytest.raises(OperationError, match="no other package has been live"):
        packages.rollback(stage)


def test_approving_twice_is_told_because_it_would_start_nothing(stage: Stage) -> None:
    arn = package("PendingManualApproval")
    assert packages.approve(stage, "1") == arn
    with pytest.raises(OperationError, match=r"approved already.*models rollback 1 --stage dev"):
        packages.approve(stage, arn)


def test_a_package_that_is_not_there_is_told_with_the_command_that_lists(stage: Stage) -> None:
    for command in (packages.approve, packages.rollback):
        with pytest.raises(OperationError, match=r"'7'.*models list --stage dev"):
            command(stage, "7")


def test_a_generative_model_that_is_known_by_its_name_is_uploaded_with_what_the_name_says(stage: Stage, tmp_path: Path) -> None:
    name = "Qwen3-Reranker-0.6B"
    config = Qwen3Config(**shape(qwen_tokenizer()), head_dim=16)
    folder = saved(tmp_path / name, decoder(config), qwen_tokenizer())
    boto3.client("s3").create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": REGION})
    stage = Stage(
        "dev", GROUP, REGION, boto3.client, _outputs={"ModelPackageGroup": GROUP, "DataBucket": "data", "ImageUri": "image"}
    )
    arn = packages.register(stage, str(folder), approve=False)
    about = boto3.client("sagemaker").describe_model_package(ModelPackageName=arn)
    uri = about["InferenceSpecification"]["Containers"][0]["ModelDataSource"]["S3DataSource"]["S3Uri"]
    served = tmp_path / "opt" / "ml" / "model"
    served.mkdir(parents=True)
    for item in boto3.client("s3").list_objects_v2(Bucket="data", Prefix=uri.removeprefix("s3://data/"))["Contents"]:
        boto3.client("s3").download_file("data", item["Key"], str(served / item["Key"].rpartition("/")[2]))
    assert (served / "prompt.yaml").read_text(encoding="utf-8") == shipped_prompts()["qwen3-reranker"]
    assert written_out(served, "model") == {}, "what is uploaded says all of it"
    rankers = [load_ranker(one, EngineOptions(device="cpu", workers=1)) for one in (folder, served)]
    scores = [ranker.score("질문", ["문서", "다른 문서"]).tolist() for ranker in rankers]
    for ranker in rankers:
        ranker.close()
    assert scores[0] == scores[1]
