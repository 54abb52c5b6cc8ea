"""The live model survives every deploy: other tags or descriptions, a failed one, the first one after the last release."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthesis import synthesise

from local_cloud.cloud import LocalCloud

LAST_RELEASE = Path(__file__).parents[1] / "last_release"
LIVE = "arn:aws:sagemaker:ap-northeast-2:000000000000:model-package/group/7,s3://bucket/models/7/,image"
BROKEN = {"Type": "AWS::SageMaker::EndpointConfig", "Properties": {"ProductionVariants": [
    {"VariantName": "main", "ModelName": "nobody", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
]}}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class DataStacks:
    """The data stack of a stage in a local cloud, deployed as the CDK's command line would: assets first, then the template."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud, self._client = cloud, cloud.client("cloudformation")
        self._assets = f"cdk-hnb659fds-assets-{cloud.settings.account_id}-{cloud.settings.region}"
        cloud.client("s3").create_bucket(
            Bucket=self._assets, CreateBucketConfiguration={"LocationConstraint": cloud.settings.region}
        )
        cloud.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
        self._current: dict[str, dict[str, Any]] = {}

    def current(self, stage: str) -> dict[str, Any]:
        """This release's template; its assets lie in the bucket."""
        if stage not in self._current:
            templates, app = synthesise(stage)
            self._upload(Path(app.outdir), f"ko-reranker-{stage}-data")
            self._current[stage] = templates["data"]
        return json.loads(json.dumps(self._current[stage]))

    def _upload(self, assembly: Path, stack: str) -> None:
        for asset in json.loads((assembly / f"{stack}.assets.json").read_text())["files"].values():
            source = assembly / asset["source"]["path"]
            if not source.is_dir():
                continue
            [place] = asset["destinations"].values()
            body = io.BytesIO()
            with zipfile.ZipFile(body, "w") as archive:
                for file in sorted(source.rglob("*")):
                    archive.write(file, file.relative_to(source))
            self._cloud.client("s3").put_object(Bucket=self._assets, Key=place["objectKey"], Body=body.getvalue())

    def deploy(self, name: str, template: dict[str, Any], **tags: str) -> str:
        """Create or update a stack; return its last status."""
        exists = any(item["StackName"] == name for item in self._client.describe_stacks()["Stacks"])
        act = self._client.update_stack if exists else self._client.create_stack
        act(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in {"project": "ko-reranker", **tags}.items()],
        )
        deadline = time.monotonic() + 60
        while (status := self._status(name)).endswith("IN_PROGRESS") and time.monotonic() < deadline:
            time.sleep(0.1)
        return status

    def delete(self, name: str) -> None:
        self._client.delete_stack(StackName=name)
        deadline = time.monotonic() + 60
        while any(item["StackName"] == name for item in self._client.describe_stacks()["Stacks"]):
            assert time.monotonic() < deadline, self.problems(name)
            time.sleep(0.1)

    def problems(self, name: str) -> str:
        events = self._client.describe_stack_events(StackName=name)["StackEvents"]
        return "\n".join(
            f"{e['LogicalResourceId']}: {e.get('ResourceStatusReason')}" for e in events if "FAILED" in e["ResourceStatus"]
        )

    def _status(self, name: str) -> str:
        return self._client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    def release(self, stage: str) -> None:
        """Write the live model as the deploy state machine does."""
        self._cloud.client("ssm").put_parameter(
            Name=f"/ko-reranker/{stage}/live-model", Value=LIVE, Type="StringList", Overwrite=True
        )

    def live(self, stage: str) -> str | None:
        ssm = self._cloud.client("ssm")
        try:
            return ssm.get_parameter(Name=f"/ko-reranker/{stage}/live-model")["Parameter"]["Value"]
        except ssm.exceptions.ParameterNotFound:
            return None


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataStacks]:
    with LocalCloud(tmp_path_factory.mktemp("live"), free_port(), free_port()) as cloud:
        yield DataStacks(cloud)


def described(template: dict[str, Any]) -> dict[str, Any]:
    """The template with another description of everything that has one."""
    for resource in template["Resources"].values():
        if "Description" in resource.get("Properties", {}):
            resource["Properties"]["Description"] += " Edited."
    return template


def broken(template: dict[str, Any]) -> dict[str, Any]:
    """The template with other descriptions, and a resource that fails when all the others are done."""
    template = described(template)
    template["Resources"]["Broken"] = {**BROKEN, "DependsOn": [name for name in template["Resources"] if name != "Broken"]}
    return template


def last_release(stage: str) -> dict[str, Any]:
    return json.loads((LAST_RELEASE / f"{stage}-data.template.json").read_text())


def test_the_last_release_lost_it(stacks: DataStacks) -> None:
    """CloudFormation's own parameter is written at any change: what the other tests hold against."""
    template = json.loads(
        json.dumps(last_release("local")).replace("ko-reranker-local", "lost").replace("reranker/local", "reranker/lost")
    )
    assert stacks.deploy("lost-data", template) == "CREATE_COMPLETE"
    stacks.release("lost")
    assert stacks.deploy("lost-data", template, owner="search") == "UPDATE_COMPLETE"
    assert stacks.live("lost") == "none,none,none"


@pytest.mark.parametrize("stage", ["local", pytest.param("prod", marks=pytest.mark.slow)])
def test_the_first_deploy_after_the_last_release_and_all_later_ones_keep_it(stacks: DataStacks, stage: str) -> None:
    name = f"ko-reranker-{stage}-data"
    assert stacks.deploy(name, last_release(stage)) == "CREATE_COMPLETE"
    stacks.release(stage)
    # The other stacks of the last release go on importing the name until they are deployed themselves.
    export = f"{name}:ExportsOutputRefLiveModelC75F9687E2A86441"
    user = {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": {"Fn::ImportValue": export}}}
    assert stacks.deploy(f"ko-reranker-{stage}-user", {"Resources": {"User": user}}) == "CREATE_COMPLETE"

    # A migration that fails leaves the last release as it was, and can be tried again.
    assert stacks.deploy(name, broken(stacks.current(stage))) == "UPDATE_ROLLBACK_COMPLETE"
    assert stacks.live(stage) == LIVE
    assert stacks.deploy(name, stacks.current(stage)) == "UPDATE_COMPLETE", stacks.problems(name)
    assert stacks.live(stage) == LIVE

    for template, tags in (
        (stacks.current(stage), {"owner": "search"}),
        (described(stacks.current(stage)), {"owner": "search"}),
        (described(stacks.current(stage)), {}),
    ):
        assert stacks.deploy(name, template, **tags) == "UPDATE_COMPLETE", stacks.problems(name)
        assert stacks.live(stage) == LIVE
    assert stacks.deploy(name, broken(stacks.current(stage))) == "UPDATE_ROLLBACK_COMPLETE"
    assert stacks.live(stage) == LIVE


@pytest.mark.slow
def test_a_new_stage_has_none_and_takes_it_away_or_keeps_it_as_its_data(stacks: DataStacks) -> None:
    for stage, kept in (("dev", None), ("fresh", LIVE)):
        template = stacks.current("dev" if stage == "dev" else "prod")
        if stage == "fresh":
            template = json.loads(
                json.dumps(template).replace("ko-reranker-prod", "fresh").replace("reranker/prod", "reranker/fresh")
            )
        assert stacks.deploy(f"{stage}-stack", broken(json.loads(json.dumps(template)))) == "ROLLBACK_COMPLETE"
        assert stacks.live(stage) is None, "a failed first deploy leaves its parameter behind"
        stacks.delete(f"{stage}-stack")
        assert stacks.deploy(f"{stage}-stack", template) == "CREATE_COMPLETE", stacks.problems(f"{stage}-stack")
        assert stacks.live(stage) == "none,none,none"
        stacks.release(stage)
        stacks.delete(f"{stage}-stack")
        assert stacks.live(stage) == kept
