"""A stage in a VPC: everything that computes is in it, it reaches what is called, and nobody reaches it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from synthesis import CONTEXT, ROOT, Templates, synthesise
from template_differences import machines
from test_templates import resources

from ko_reranker.operations.called import called_services
from ko_reranker.operations.synthesis import text
from ko_reranker.settings import SettingsError, load_settings

GIVEN = {
    "network.vpc": "existing",
    "network.vpc_id": "vpc-0a1b",
    "network.subnet_ids": '["subnet-0a", "subnet-0b"]',
    "network.route_table_ids": '["rtb-0a"]',
    "network.egress": "true",
}
# How boto3 calls what has an endpoint of another name.
ENDPOINTS = {"sagemaker": "sagemaker.api", "sagemaker-runtime": "sagemaker.runtime", "stepfunctions": "states"}


@pytest.fixture(scope="module")
def existing() -> Templates:
    return synthesise("prod", **GIVEN)[0]


def test_every_function_job_and_container_is_in_the_vpc(locked: Templates) -> None:
    # Those of deploy-time-build aside, which starts builds.
    ours = {n: i for n, i in resources(locked, "AWS::Lambda::Function") if not n.startswith("DeployTimeBuild")}
    assert len(ours) > 10
    for name, item in ours.items():
        assert len(item["Properties"]["VpcConfig"]["SubnetIds"]) == 2, name
    states = dict(machines(locked["pipeline"]))["retrain"]["States"]
    for name in ("Mine hard negatives", "Evaluate"):
        assert len(states[name]["Parameters"]["NetworkConfig"]["VpcConfig"]["Subnets"]) == 2
    assert states["Train"]["Parameters"]["VpcConfig.$"] == "$.request.training_job.VpcConfig"
    function = locked["pipeline"]["Outputs"]["CheckInputFunction"]["Value"]["Ref"]
    variables = locked["pipeline"]["Resources"][function]["Properties"]["Environment"]["Variables"]
    assert set(json.loads(text(variables["TRAINING"]))["vpc"]) == {"Subnets", "SecurityGroupIds"}
    ((_, model),) = list(resources(locked, "AWS::SageMaker::Model"))
    created = dict(machines(locked["serving"]))["deploy"]["States"]["Create the model"]["Parameters"]
    for made in (model["Properties"], created):
        assert made["EnableNetworkIsolation"] is True
        assert len(made["VpcConfig"]["Subnets"]) == 2 and len(made["VpcConfig"]["SecurityGroupIds"]) == 1


def test_there_is_an_endpoint_of_exactly_what_is_called(locked: Templates, existing: Templates) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "lambda").rglob("*.py"))
    called = set(re.findall(r'boto3\.client\(\s*"([\w-]+)"', code))
    called |= {"sagemaker-runtime"} & set(re.findall(r"sagemaker-runtime", code))
    assert {ENDPOINTS.get(name, name) for name in called} == called_services()
    for templates in (locked, existing):
        made = [item["Properties"] for _, item in resources(templates, "AWS::EC2::VPCEndpoint")]
        assert {item["ServiceName"].split(".", 3)[3] for item in made} == called_services()
        for item in made:
            if item["VpcEndpointType"] == "Interface":
                assert item["PrivateDnsEnabled"] is True and len(item["SubnetIds"]) == 2


def test_nothing_listens_to_the_world(locked: Templates, existing: Templates) -> None:
    for templates in (locked, existing):
        groups = [item["Properties"] for _, item in resources(templates, "AWS::EC2::SecurityGroup")]
        rules = [item["Properties"] for _, item in resources(templates, "AWS::EC2::SecurityGroupIngress")]
        rules += [rule for group in groups for rule in group.get("SecurityGroupIngress", ())]
        assert len(rules) == 2 and all("SourceSecurityGroupId" in rule for rule in rules)
        assert not any("CidrIp" in rule for rule in rules)


def test_a_locked_vpc_has_no_way_out_and_an_open_one_has_a_gateway(locked: Templates, everything: Templates) -> None:
    for kind in ("InternetGateway", "NatGateway"):
        assert not dict(resources(locked, f"AWS::EC2::{kind}"))
    assert len(dict(resources(everything, "AWS::EC2::NatGateway"))) == 1


def test_an_existing_vpc_is_left_as_it_is(existing: Templates) -> None:
    kinds = {item["Type"] for item in existing["network"]["Resources"].values()}
    assert not kinds & {"AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::Route", "AWS::EC2::RouteTable"}
    with_its_own, _ = synthesise("prod", **GIVEN, **{"network.make_endpoints": "false"})
    assert not dict(resources(with_its_own, "AWS::EC2::VPCEndpoint"))


def test_without_a_vpc_nothing_of_it_is_there(prod: Templates, local: Templates) -> None:
    for templates in (prod, local):
        assert "network" not in templates
        found = json.dumps(templates)
        assert "VpcConfig" not in found and "EnableNetworkIsolation" not in found and "ec2:" not in found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"network.vpc": "new"}, "training.base_model is BAAI/bge-reranker-v2-m3, an id of the Hugging Face hub"),
        (
            {"network.vpc": "new", "training.base_model": "s3://b/m/", "mining.teacher": "BAAI/bge-reranker-v2-m3"},
            "mining.teacher is BAAI",
        ),
        ({"network.vpc": "existing"}, "vpc existing needs vpc_id and subnet_ids and route_table_ids"),
        ({**GIVEN, "network.route_table_ids": "[]"}, "needs route_table_ids, or make_endpoints false"),
        ({"network.vpc_id": "vpc-0a1b"}, "are of vpc existing"),
        ({"network.vpc": "new", "network.make_endpoints": "false"}, "reaches no service"),
        ({"network.availability_zones": '["ap-northeast-2a"]'}, "two at least"),
        ({"network.cidr": "ten"}, "network.cidr"),
    ],
)
def test_a_network_that_cannot_work_is_refused_by_name(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**CONTEXT, "stage": "prod", **given})
    assert said in str(caught.value)


@pytest.mark.parametrize("model", ["sample:mini", "s3://b/m/", "/opt/model", "./model"])
def test_what_needs_no_internet_is_taken(model: str) -> None:
    given: dict[str, Any] = {"stage": "local", "network.vpc": "new", "training.base_model": model}
    assert load_settings({**CONTEXT, **given}).training.base_model == model


def test_the_first_state_knows_whether_the_hub_can_be_reached(locked: Templates, prod: Templates) -> None:
    for templates, reached in ((locked, False), (prod, True)):
        function = templates["pipeline"]["Outputs"]["CheckInputFunction"]["Value"]["Ref"]
        variables = templates["pipeline"]["Resources"][function]["Properties"]["Environment"]["Variables"]
        assert json.loads(text(variables["DEFAULTS"]))["reaches_the_hub"] is reached
