"""A first deploy that fails: what CloudFormation leaves behind, and whether the next one can begin."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from local_support import Account, eventually, free_port

from local_cloud.cloud import LocalCloud


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with LocalCloud(tmp_path_factory.mktemp("first"), free_port(), free_port()) as cloud:
        yield Account(cloud)


def template(policy: str, *, fails: bool) -> str:
    kept = {"UpdateReplacePolicy": "Retain", "DeletionPolicy": policy}
    resources = {
        "Group": {
            "Type": "AWS::SageMaker::ModelPackageGroup",
            "Properties": {"ModelPackageGroupName": f"kept-{policy}"},
            **kept,
        },
        "Images": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": f"kept-{policy}".lower()}, **kept},
    }
    if fails:
        variant = {"VariantName": "main", "ModelName": "nobody", "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
        resources["Broken"] = {
            "Type": "AWS::SageMaker::EndpointConfig",
            "Properties": {"ProductionVariants": [variant]},
            "DependsOn": ["Group", "Images"],
        }
    return json.dumps({"Resources": resources})


def create(account: Account, name: str, body: str) -> str:
    """Create a stack; return its last status."""
    client = account.client("cloudformation")
    client.create_stack(StackName=name, TemplateBody=body)

    def over() -> str | None:
        status = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
        return None if status.endswith("IN_PROGRESS") else status

    return eventually(over, 20)


@pytest.mark.parametrize(("policy", "second"), [("Retain", "ROLLBACK_COMPLETE"), ("RetainExceptOnCreate", "CREATE_COMPLETE")])
def test_a_name_is_free_again_after_a_failed_first_deploy_only_if_it_is_given_back(
    account: Account, policy: str, second: str
) -> None:
    assert create(account, f"first-{policy}", template(policy, fails=True)) == "ROLLBACK_COMPLETE"
    assert create(account, f"second-{policy}", template(policy, fails=False)) == second


def test_what_is_kept_survives_its_stack(account: Account) -> None:
    body = template("RetainExceptOnCreate", fails=False).replace("kept-", "owned-")
    assert create(account, "owner", body) == "CREATE_COMPLETE"
    account.client("cloudformation").delete_stack(StackName="owner")
    groups = account.client("sagemaker").list_model_package_groups
    eventually(lambda: "owner" not in str(account.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])))
    assert "owned-RetainExceptOnCreate" in str(groups()["ModelPackageGroupSummaryList"])
