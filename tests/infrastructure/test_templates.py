"""What users rely on in the templates: encryption, least privilege, and nothing that can't be undone by accident."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import assertions
from synthesis import Templates, synthesise
from template_differences import machines, statements

ROOT = Path(__file__).parents[2]
# Written by deploy-time-build, acknowledged one by one in cdk/acknowledgements.py.
FOREIGN = ("ContainerImageBuild", "DeployTimeBuild")


def resources(templates: Templates, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for template in templates.values():
        for name, item in template["Resources"].items():
            if item["Type"] == kind:
                yield name, item


def test_every_bucket_is_encrypted_private_and_tls_only(prod: Templates) -> None:
    buckets = dict(resources(prod, "AWS::S3::Bucket"))
    assert len(buckets) == 2
    for item in buckets.values():
        properties = item["Properties"]
        assert properties["BucketEncryption"]
        assert all(properties["PublicAccessBlockConfiguration"].values())
        assert item["DeletionPolicy"] == "Retain"
    for _, item in resources(prod, "AWS::S3::BucketPolicy"):
        denials = [s for s in item["Properties"]["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert any(s["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} for s in denials)


def test_the_data_bucket_is_versioned_under_a_key_and_expires_what_can_be_made_again(prod: Templates) -> None:
    template = assertions.Template.from_json(prod["data"])
    template.has_resource_properties(
        "AWS::S3::Bucket",
        {
            "VersioningConfiguration": {"Status": "Enabled"},
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
                ]
            },
            "LoggingConfiguration": {"LogFilePrefix": "data/"},
            "LifecycleConfiguration": {
                "Rules": assertions.Match.array_with(
                    [assertions.Match.object_like({"Prefix": "runs/", "ExpirationInDays": 90})]
                )
            },
        },
    )
    template.has_resource_properties("AWS::KMS::Key", {"EnableKeyRotation": True})


def test_tables_are_encrypted_recoverable_and_kept(prod: Templates) -> None:
    tables = dict(resources(prod, "AWS::DynamoDB::Table"))
    assert len(tables) == 2
    for item in tables.values():
        assert item["Properties"]["SSESpecification"]["SSEType"] == "KMS"
        assert item["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert item["DeletionPolicy"] == "Retain"


def test_no_policy_has_a_wildcard_action(prod: Templates, local: Templates) -> None:
    for templates in (prod, local):
        for template in templates.values():
            for who, actions, _ in statements(template):
                assert "*" not in actions or who.startswith(FOREIGN), f"{who} may {actions}"


def test_only_actions_that_know_no_resources_are_allowed_on_all(prod: Templates) -> None:
    unbounded = re.compile(
        r"(translate:TranslateText|cloudwatch:PutMetricData|ecr:GetAuthorizationToken|xray:\w+"
        r"|logs:(\w+LogDelivery|ListLogDeliveries|\w+ResourcePolic\w+|DescribeLogGroups))"
    )
    for template in prod.values():
        for who, actions, statement in statements(template):
            if json.loads(statement)["Resource"] == "*" and not who.startswith(FOREIGN):
                for action in actions.split(", "):
                    assert unbounded.fullmatch(action), f"{who} may {action} on everything"


def test_roles_are_passed_to_sagemaker_alone(prod: Templates) -> None:
    passes = [json.loads(s) for t in prod.values() for _, actions, s in statements(t) if "iam:PassRole" in actions]
    assert len(passes) == 2
    for statement in passes:
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
        assert "*" not in json.dumps(statement["Resource"])


def test_the_map_over_shards_is_bounded_and_writes_its_results(prod: Templates) -> None:
    retrain = dict(machines(prod["pipeline"]))["retrain"]
    shards = retrain["States"]["Translate the shards"]
    assert shards["ItemProcessor"]["ProcessorConfig"] == {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
    assert shards["MaxConcurrency"] == 10
    assert shards["ToleratedFailurePercentage"] == 5
    assert shards["ItemReader"]["ReaderConfig"]["InputType"] == "JSONL"
    assert shards["ResultWriter"]["Parameters"]["Prefix.$"] == "States.Format('{}/map', $.request.prefix)"


def test_training_uses_checkpoints_an_uncompressed_artefact_and_a_name_for_each_attempt(prod: Templates) -> None:
    train = dict(machines(prod["pipeline"]))["retrain"]["States"]["Train"]
    assert train["Resource"].endswith(":states:::sagemaker:createTrainingJob.sync")
    parameters = train["Parameters"]
    assert "$$.Execution.RedriveCount" in parameters["TrainingJobName.$"]
    assert parameters["OutputDataConfig"]["CompressionType"] == "NONE"
    assert parameters["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert parameters["EnableManagedSpotTraining.$"] == "$.request.use_spot"


def test_every_state_that_can_fail_ends_in_a_sentence(prod: Templates) -> None:
    for name, definition in (*machines(prod["pipeline"]), *machines(prod["serving"])):
        for state, body in definition["States"].items():
            if body["Type"] == "Fail":
                assert body.get("CausePath") or body.get("Cause"), f"{name}: {state} fails without a cause"
            # Unlocking and writing down a failure come after the reason is known; they retry, and then only the log tells.
            elif body["Type"] in ("Task", "Map") and not state.startswith(
                ("Unlock", "Give the lock", "Record the", "It is live")
            ):
                assert body.get("Catch"), f"{name}: {state} catches nothing"


def test_endpoint_and_scaling_come_with_serving_and_not_without(prod: Templates, prod_without_endpoint: Templates) -> None:
    kinds = ("Model", "EndpointConfig", "Endpoint")
    for kind in kinds:
        assert dict(resources(prod, f"AWS::SageMaker::{kind}"))
        assert not dict(resources(prod_without_endpoint, f"AWS::SageMaker::{kind}"))
    assertions.Template.from_json(prod["serving"]).has_resource_properties(
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        {
            "TargetTrackingScalingPolicyConfiguration": {
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
                }
            }
        },
    )
    for kind in kinds[:2]:
        for _, item in resources(prod, f"AWS::SageMaker::{kind}"):
            assert not {"ModelName", "EndpointConfigName"} & set(item["Properties"]), "a physical name could not be replaced"


def test_an_update_shifts_one_instance_first_and_goes_back_on_the_endpoints_own_alarms(prod: Templates) -> None:
    states = dict(machines(prod["serving"]))["deploy"]["States"]
    rollout = states["Update the endpoint"]["Parameters"]["DeploymentConfig"]
    routing = rollout["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing["CanarySize"]) == ("CANARY", {"Type": "INSTANCE_COUNT", "Value": 1})
    watched = {alarm["AlarmName"] for alarm in rollout["AutoRollbackConfiguration"]["Alarms"]}
    alarms = [item["Properties"] for _, item in resources(prod, "AWS::CloudWatch::Alarm")]
    assert watched == {alarm["AlarmName"] for alarm in alarms if alarm["Namespace"] == "AWS/SageMaker"}
    for alarm in alarms:
        if alarm["AlarmName"] in watched:
            assert {"Name": "EndpointName", "Value": "ko-reranker-prod"} in alarm["Dimensions"]
    # What CloudFormation changes rolls out as carefully.
    [(_, endpoint)] = resources(prod, "AWS::SageMaker::Endpoint")
    assert endpoint["Properties"]["DeploymentConfig"] == rollout
    # The way back asks no alarm: the failed model may have set it off.
    assert "DeploymentConfig" not in states["Put the old model back"]["Parameters"]


def test_a_package_says_what_it_comes_from_where_nothing_expires(prod: Templates) -> None:
    states = dict(machines(prod["pipeline"]))["retrain"]["States"]
    for name in ("Register as approved", "Register for approval", "Register as rejected"):
        package = states[name]["Parameters"]
        assert package["MetadataProperties"] == {"GeneratedBy.$": "$.training.arn"}
        places = [package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri.$"]]
        places += [package["CustomerMetadataProperties"][f"{key}.$"] for key in ("golden", "manifest", "run_card")]
        assert not [place for place in places if "runs/" in json.dumps(place)]


def test_every_notice_about_a_candidate_has_its_figures_and_the_reports_link(prod: Templates) -> None:
    states = dict(machines(prod["pipeline"]))["retrain"]["States"]
    for name in ("Ask for approval", "Tell of the release"):
        message = states[name]["Parameters"]["Message.$"]
        assert "$.gate.message" in message and "$.gate.link" in message
    # A rejection stops the execution, and its cause is what the rule on stopped executions publishes.
    assert states[states["Register as rejected"]["Next"]]["CausePath"] == "$.gate.reason"


def test_the_live_model_is_read_at_deploy_time_from_the_parameter_that_the_data_stack_keeps(prod: Templates) -> None:
    parameters = prod["serving"]["Parameters"].values()
    live = [p for p in parameters if p.get("Default") == "/ko-reranker/prod/live-model"]
    assert live[0]["Type"] == "AWS::SSM::Parameter::Value<List<String>>"
    [(_, stored)] = resources(prod, "AWS::SSM::Parameter")
    assert stored["Properties"]["Value"] == "none,none,none"
    assert stored["DeletionPolicy"] == "Retain"


def test_an_approval_starts_the_deploy_machine_and_stops_are_published(prod: Templates) -> None:
    patterns = [item["Properties"]["EventPattern"] for _, item in resources(prod, "AWS::Events::Rule")]
    assert {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Model Package State Change"],
        "detail": {"ModelPackageGroupName": ["ko-reranker-prod"], "ModelApprovalStatus": ["Approved"]},
    } in patterns
    stops = [p for p in patterns if p["source"] == ["aws.states"]]
    assert len(stops) == 2
    assert all(p["detail"]["status"] == ["FAILED", "TIMED_OUT", "ABORTED"] for p in stops)


def test_machine_logs_hold_no_data(prod: Templates) -> None:
    for _, item in resources(prod, "AWS::StepFunctions::StateMachine"):
        assert item["Properties"]["LoggingConfiguration"]["IncludeExecutionData"] is False


@pytest.mark.parametrize("stage", ["local", "dev", "prod"])
def test_every_stage_synthesises_without_an_account(stage: str) -> None:
    templates, _ = synthesise(stage)
    assert set(templates) == {"data", "pipeline", "serving", "api"}


def test_state_machines_are_valid_amazon_states_language(prod: Templates, tmp_path: Path) -> None:
    for name, definition in (*machines(prod["pipeline"]), *machines(prod["serving"])):
        # What CloudFormation fills in is put into form, so that the validator sees ARNs where ARNs belong.
        text = re.sub(r"\{'Ref': 'AWS::Partition'\}", "aws", json.dumps(definition))
        text = re.sub(r"\{'Fn::GetAtt': \[[^\]]*\]\}", "arn:aws:lambda:ap-northeast-2:111122223333:function:f", text)
        text = re.sub(r"\{'(Fn::ImportValue|Ref)': '[^']*'\}", "name", text)
        path = tmp_path / f"{name}.asl.json"
        path.write_text(text)
        done = subprocess.run(
            [str(ROOT / "node_modules/.bin/asl-validator"), "--json-path", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_finds_nothing(prod: Templates, tmp_path: Path) -> None:
    paths = []
    for name, template in prod.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(template))
    # W3005: CDK writes dependencies that follow from references as well; W3045: the access log bucket's own setting.
    ignored = ["--ignore-checks", "W3005", "W3045", "I"]
    done = subprocess.run(
        [str(ROOT / ".venv/bin/cfn-lint"), "--regions", "ap-northeast-2", *ignored, "--template", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
