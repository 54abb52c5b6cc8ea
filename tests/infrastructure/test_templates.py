"""What users rely on in the templates: encryption, least privilege, and nothing that can't be undone by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import assertions
from synthesis import Templates, synthesise
from template_differences import machines, statements

from cdk import lint
from cdk.variants import VARIANTS
from ko_reranker.operations.destroying import ORDER
from ko_reranker.operations.synthesis import text
from ko_reranker.retraining.training_request import FIELDS, TrainingPlace
from ko_reranker.settings import SettingsError, load_settings

ROOT = Path(__file__).parents[2]
# Written by deploy-time-build, acknowledged one by one in cdk/constructs/image.py.
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
    # The API's table of counts holds the present minute and nothing worth keeping.
    tables = dict(resources({"data": prod["data"]}, "AWS::DynamoDB::Table"))
    assert len(tables) == 2
    for item in tables.values():
        assert item["Properties"]["SSESpecification"]["SSEType"] == "KMS"
        assert item["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert item["Properties"]["DeletionProtectionEnabled"] is True
        assert item["DeletionPolicy"] == "Retain"


def test_backups_of_the_tables_are_a_setting(prod: Templates) -> None:
    assert not dict(resources(prod, "AWS::Backup::BackupPlan"))
    templates, _ = synthesise("prod", **{"data.backup_days": "365"})
    ((_, plan),) = list(resources(templates, "AWS::Backup::BackupPlan"))
    (rule,) = plan["Properties"]["BackupPlan"]["BackupPlanRule"]
    assert rule["Lifecycle"] == {"DeleteAfterDays": 365}
    ((_, vault),) = list(resources(templates, "AWS::Backup::BackupVault"))
    assert "Key" in json.dumps(vault["Properties"]["EncryptionKeyArn"]) and vault["DeletionPolicy"] == "Retain"
    ((_, selection),) = list(resources(templates, "AWS::Backup::BackupSelection"))
    tables = dict(resources({"data": templates["data"]}, "AWS::DynamoDB::Table"))
    assert all(name in json.dumps(selection["Properties"]["BackupSelection"]["Resources"]) for name in tables)


def test_logs_that_services_name_get_an_end(prod: Templates) -> None:
    environments = [
        item["Properties"].get("Environment", {}).get("Variables", {}) for _, item in resources(prod, "AWS::Lambda::Function")
    ]
    (variables,) = [found for found in environments if "LOG_GROUPS" in found]
    names = json.loads(text(variables["LOG_GROUPS"]))
    kinds = ("sagemaker/TrainingJobs", "sagemaker/ProcessingJobs", "sagemaker/Endpoints/ko-reranker-prod")
    assert names[:3] == [f"/aws/{kind}" for kind in kinds]
    assert names[3].startswith("/aws/codebuild/") and names[4].startswith("/aws/lambda/") and len(names) == 5
    assert (variables["LOG_DAYS"], variables["KEPT_DAYS"]) == ("90", "90")


def test_no_policy_has_a_wildcard_action(prod: Templates, local: Templates) -> None:
    for templates in (prod, local):
        for template in templates.values():
            for who, actions, _ in statements(template):
                assert "*" not in actions or who.startswith(FOREIGN), f"{who} may {actions}"


def test_only_actions_that_know_no_resources_are_allowed_on_all(prod: Templates) -> None:
    unbounded = re.compile(
        r"(translate:TranslateText|cloudwatch:PutMetricData|ecr:GetAuthorizationToken|xray:\w+"
        r"|sagemaker:List(Models|EndpointConfigs|Endpoints)|logs:(\w+LogDelivery|ListLogDeliveries|\w+ResourcePolic\w+|DescribeLogGroups))"
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


def test_training_sends_all_that_the_first_state_made_under_a_name_for_each_attempt(prod: Templates) -> None:
    train = dict(machines(prod["pipeline"]))["retrain"]["States"]["Train"]
    assert train["Resource"].endswith(":states:::sagemaker:createTrainingJob.sync")
    parameters = dict(train["Parameters"])
    name = parameters.pop("TrainingJobName.$")
    assert "$.request.job_name" in name and "$$.Execution.RedriveCount" in name and "$$.State.RetryCount" in name
    tags = parameters.pop("Tags")
    assert parameters == {f"{field}.$": f"$.request.training_job.{field}" for field in FIELDS}
    assert tags == [{"Key": "project", "Value": "ko-reranker"}, {"Key": "stage", "Value": "prod"}]


def test_the_first_state_knows_where_the_stage_trains(prod: Templates) -> None:
    outputs = prod["pipeline"]["Outputs"]
    function = prod["pipeline"]["Resources"][outputs["CheckInputFunction"]["Value"]["Ref"]]
    place = TrainingPlace(**json.loads(text(function["Properties"]["Environment"]["Variables"]["TRAINING"])))
    assert place.image == text(outputs["ImageUri"]["Value"])
    assert "TrainingRole" in place.role_arn and "Key" in place.key_arn
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    assert place.volume_gb == load_settings({**context, "stage": "prod"}).training.volume_gb


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


def test_every_function_is_called_again_when_its_process_died(prod: Templates) -> None:
    seen = 0
    for _, definition in (*machines(prod["pipeline"]), *machines(prod["serving"])):
        shards = [state["ItemProcessor"]["States"] for state in definition["States"].values() if state["Type"] == "Map"]
        for states in (definition["States"], *shards):
            for state in states.values():
                if "Fn::GetAtt" not in str(state.get("Resource")) and "lambda:invoke" not in str(state.get("Resource")):
                    continue
                seen += 1
                retries = {error: rule["MaxAttempts"] for rule in state["Retry"] for error in rule["ErrorEquals"]}
                lost = ("Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Timedout", "Lambda.Unknown")
                assert {
                    error: retries.get(error) for error in (*lost, "Lambda.ClientExecutionTimeoutException")
                } == dict.fromkeys((*lost, "Lambda.ClientExecutionTimeoutException"), 2)
    assert seen == 7


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
    alarms = [item["Properties"] for _, item in resources({"serving": prod["serving"]}, "AWS::CloudWatch::Alarm")]
    assert watched == {alarm["AlarmName"] for alarm in alarms if alarm["Namespace"] == "AWS/SageMaker"}
    for alarm in alarms:
        if alarm["AlarmName"] in watched:
            assert {"Name": "EndpointName", "Value": "ko-reranker-prod"} in alarm["Dimensions"]
    # What CloudFormation changes rolls out as carefully.
    [(_, endpoint)] = resources(prod, "AWS::SageMaker::Endpoint")
    assert endpoint["Properties"]["DeploymentConfig"] == rollout
    # The way back asks no alarm: the failed model may have set it off.
    assert "DeploymentConfig" not in states["Put the old model back"]["Parameters"]


def test_what_is_live_is_what_the_endpoint_runs_and_not_only_what_the_record_says(prod: Templates) -> None:
    states = dict(machines(prod["serving"]))["deploy"]["States"]
    in_service = states["Is the endpoint ready?"]["Choices"][0]
    assert states[in_service["Next"]]["Resource"].endswith("sagemaker:describeEndpointConfig")
    already, checking = states["Does it run the package?"]["Choices"]
    assert {rule["Variable"] for rule in already["And"]} == {"$.runs.data", "$.runs.image", "$.live.parts[0]"}
    assert states[checking["Next"]]["Parameters"]["ConditionExpression"] == "attribute_not_exists(id)"
    rules = (item["Properties"] for _, item in resources(prod, "AWS::Events::Rule"))
    patterns = [rule["EventPattern"] for rule in rules if "EventPattern" in rule]
    assert [p["detail"]["EndpointName"] for p in patterns if p["detail-type"] == ["SageMaker Endpoint State Change"]] == [
        ["ko-reranker-prod"]
    ]


def test_a_deploy_that_would_update_the_endpoint_asks_the_release_lock_before(prod: Templates, local: Templates) -> None:
    for templates in (prod, local):
        [(_, endpoint)] = resources(templates, "AWS::SageMaker::Endpoint")
        [(config, _)] = resources(templates, "AWS::SageMaker::EndpointConfig")
        [(guard, item)] = resources(templates, "Custom::ReleaseGuard")
        assert guard in endpoint["DependsOn"]
        assert item["Properties"]["EndpointConfig"] == {"Fn::GetAtt": [config, "EndpointConfigName"]}
        assert item["Properties"]["DeploymentConfig"] == endpoint["Properties"].get("DeploymentConfig", {})
        may = {action: statement for who, action, statement in statements(templates["serving"]) if "ReleaseGuard" in who}
        assert {action for action in may if action.startswith(("dynamodb", "states", "cloudformation"))} == {
            "dynamodb:GetItem",
            "states:DescribeExecution",
            "cloudformation:DescribeStacks",
        }
        assert json.loads(may["cloudformation:DescribeStacks"])["Resource"] == {"Ref": "AWS::StackId"}


def test_a_canary_counts_on_the_instances_that_the_settings_ask_for(prod: Templates) -> None:
    excluded = [{"VariantPropertyType": "DesiredInstanceCount"}]
    [(_, endpoint)] = resources(prod, "AWS::SageMaker::Endpoint")
    assert endpoint["Properties"]["ExcludeRetainedVariantProperties"] == excluded
    states = dict(machines(prod["serving"]))["deploy"]["States"]
    assert states["Update the endpoint"]["Parameters"]["ExcludeRetainedVariantProperties.$"] == "$.next.exclude"
    [fewer] = states["Are there enough instances to keep?"]["Choices"]
    assert fewer["And"][1]["NumericLessThan"] == 2
    assert states[fewer["Next"]]["Result"] == excluded


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
    for name in ("Ask for approval", "Notify: released"):
        message = states[name]["Parameters"]["Message.$"]
        assert "$.gate.message" in message and "$.gate.link" in message
    # A rejection stops the execution, and its cause is what the rule on stopped executions publishes.
    assert states[states["Register as rejected"]["Next"]]["CausePath"] == "$.gate.reason"


def test_the_live_model_is_read_at_deploy_time_from_the_parameter_that_the_data_stack_keeps(prod: Templates) -> None:
    parameters = prod["serving"]["Parameters"].values()
    live = [p for p in parameters if p.get("Default") == "/ko-reranker/prod/live-model"]
    assert live[0]["Type"] == "AWS::SSM::Parameter::Value<List<String>>"
    [(_, stored)] = resources(prod, "Custom::LiveModelParameter")
    assert stored["Properties"]["Name"] == "/ko-reranker/prod/live-model"
    assert stored["Properties"]["Value"] == "none,none,none"
    assert stored["DeletionPolicy"] == "RetainExceptOnCreate"
    # No deploy writes it: CloudFormation's own parameter is another, and goes with the stack. What that was up to 0.1.0 stays.
    [(_, own)] = resources(prod, "AWS::SSM::Parameter")
    assert own["Properties"]["Name"] == "/ko-reranker/prod/no-model"
    assert (own["DeletionPolicy"], own["UpdateReplacePolicy"]) == ("Delete", "Retain")


def test_an_approval_starts_the_deploy_machine_and_stops_are_published(prod: Templates) -> None:
    rules = (item["Properties"] for _, item in resources(prod, "AWS::Events::Rule"))
    patterns = [rule["EventPattern"] for rule in rules if "EventPattern" in rule]
    assert {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Model Package State Change"],
        "detail": {
            "ModelPackageGroupName": ["ko-reranker-prod"],
            "ModelApprovalStatus": ["Approved"],
            "$or": [{"UpdatedModelPackageFields": ["ModelApprovalStatus"]}, {"UpdatedModelPackageFields": [{"exists": False}]}],
        },
    } in patterns
    stops = [p for p in patterns if p["source"] == ["aws.states"]]
    assert len(stops) == 2
    assert all(p["detail"]["status"] == ["FAILED", "TIMED_OUT", "ABORTED"] for p in stops)


def test_a_retraining_begins_by_the_clock_of_a_time_zone(prod: Templates) -> None:
    assert not list(resources(prod, "AWS::Scheduler::Schedule"))
    given = {"schedule.retraining": "cron(0 3 1 * ? *)", "schedule.retraining_input": '{"dataset": "faq"}'}
    templates, _ = synthesise("prod", **given)
    ((_, schedule),) = list(resources(templates, "AWS::Scheduler::Schedule"))
    properties, target = schedule["Properties"], schedule["Properties"]["Target"]
    assert (properties["ScheduleExpression"], properties["ScheduleExpressionTimezone"]) == ("cron(0 3 1 * ? *)", "Asia/Seoul")
    assert json.loads(target["Input"]) == {"dataset": "faq"}
    assert templates["pipeline"]["Resources"][target["Arn"]["Ref"]]["Type"] == "AWS::StepFunctions::StateMachine"
    may = {actions for who, actions, _ in statements(templates["pipeline"]) if who.startswith("ScheduledRetraining")}
    assert may == {"states:StartExecution", "sqs:SendMessage"}


def test_the_endpoint_has_other_bounds_by_the_hour_of_a_time_zone(prod: Templates, everything: Templates) -> None:
    ((_, target),) = list(resources(prod, "AWS::ApplicationAutoScaling::ScalableTarget"))
    assert "ScheduledActions" not in target["Properties"]
    ((_, target),) = list(resources(everything, "AWS::ApplicationAutoScaling::ScalableTarget"))
    actions = target["Properties"]["ScheduledActions"]
    assert {item["Timezone"] for item in actions} == {"Asia/Seoul"}
    assert [(item["Schedule"], item["ScalableTargetAction"]) for item in actions] == [
        ("cron(0 20 * * ? *)", {"MinCapacity": 1, "MaxCapacity": 2}),
        ("cron(0 8 * * ? *)", {"MinCapacity": 2, "MaxCapacity": 6}),
    ]


def test_the_endpoint_comes_and_goes_by_the_hour_of_a_time_zone(everything: Templates) -> None:
    serving = everything["serving"]
    schedules = [item["Properties"] for _, item in resources({"serving": serving}, "AWS::Scheduler::Schedule")]
    assert {item["ScheduleExpressionTimezone"] for item in schedules} == {"Asia/Seoul"}
    assert {(item["ScheduleExpression"], item["Target"]["Input"]) for item in schedules} == {
        ("cron(0 23 ? * MON-FRI *)", '{"endpoint": "off"}'),
        ("cron(0 7 ? * MON-FRI *)", '{"endpoint": "on"}'),
    }
    [started] = {item["Target"]["Arn"]["Ref"] for item in schedules}
    assert serving["Resources"][started]["Properties"]["StateMachineName"] == "ko-reranker-prod-deploy"
    may = {actions for who, actions, _ in statements(serving) if who.startswith("EndpointHours")}
    assert may == {"states:StartExecution", "sqs:SendMessage"}


def test_an_endpoint_comes_back_with_the_scaling_that_the_stack_gave_it(everything: Templates) -> None:
    [(_, target)] = resources(everything, "AWS::ApplicationAutoScaling::ScalableTarget")
    [(_, policy)] = resources(everything, "AWS::ApplicationAutoScaling::ScalingPolicy")
    states = dict(machines(everything["serving"]))["deploy"]["States"]
    target, policy = target["Properties"], policy["Properties"]
    named = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
    bounds = {key: target[key] for key in ("MinCapacity", "MaxCapacity")}
    assert states["Register its scalable target"]["Parameters"] == {**named, **bounds}
    tracking = {key: policy[key] for key in ("PolicyName", "PolicyType", "TargetTrackingScalingPolicyConfiguration")}
    assert states["Put its scaling policy"]["Parameters"] == {**named, **tracking}
    actions = [states[f"Put its scheduled action {place}"]["Parameters"] for place in (1, 2)]
    assert actions == [{**named, **action} for action in target["ScheduledActions"]]
    # A deploy that would change any of it is refused while there is no endpoint.
    [(_, guard)] = resources(everything, "Custom::ReleaseGuard")
    assert {"Bounds", "Tracking", "Hours"} <= guard["Properties"].keys()


def test_the_alarm_on_a_silent_endpoint_is_the_one_that_is_muted_while_it_is_away(everything: Templates) -> None:
    states = dict(machines(everything["serving"]))["deploy"]["States"]
    alarms = {item["Properties"]["AlarmName"] for _, item in resources(everything, "AWS::CloudWatch::Alarm")}
    for name in ("Disable its alarm's actions", "Enable its alarm's actions"):
        [alarm] = states[name]["Parameters"]["AlarmNames"]
        assert alarm in alarms


def test_who_takes_requests_may_bring_the_endpoint_back_and_start_nothing_else(prod: Templates, everything: Templates) -> None:
    assert not [actions for who, actions, _ in statements(prod["api"]) if "states:" in actions]
    [(_, may)] = [(who, statement) for who, actions, statement in statements(everything["api"]) if "states:" in actions]
    assert "stateMachine:STAGE-wake" in may and "deploy" not in may
    [start] = dict(machines(everything["serving"]))["wake"]["States"].values()
    assert start["Parameters"]["Input"] == {"endpoint": "on"}


def test_quotas_are_those_of_the_busiest_hour() -> None:
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    assert load_settings({**context, "stage": "prod"}).most_instances == 4
    assert load_settings({**context, "stage": "prod", **VARIANTS["everything"]}).most_instances == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule.capacity", '[{"at": "cron(0 20 * * ? *)", "min_instances": 1, "max_instances": 2}]'),
        ("schedule.capacity", '[{"at": "20:00", "min_instances": 1, "max_instances": 2}]'),
        ("schedule.time_zone", "Asia/Busan"),
        ("schedule.retraining", "0 3 1 * *"),
        ("schedule.retraining", "rate(5 minutes)"),
        ("schedule.retraining_input", "[]"),
        ("schedule.endpoint", '{"off": "cron(0 20 * * ? *)"}'),
        ("schedule.endpoint", '{"off": "rate(12 hours)", "on": "cron(0 8 * * ? *)"}'),
        ("schedule.endpoint", '{"off": "cron(0 25 * * ? *)", "on": "cron(0 8 * * ? *)"}'),
        ("schedule.endpoint", '{"off": "cron(0 8 * * * *)", "on": "cron(0 8 * * ? *)"}'),
        ("schedule.endpoint", '{"off": "cron(0 8 * * ? *)", "on": "cron(0 8 ? * MON-FRI *)"}'),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(key: str, value: str) -> None:
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    with pytest.raises(SettingsError, match=key.removesuffix(".capacity")):
        load_settings({**context, "stage": "prod", key: value})


def test_bounds_that_begin_when_the_endpoint_goes_or_comes_are_refused() -> None:
    context = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    capacity = '[{"at": "cron(0 8 * * ? *)", "min_instances": 2, "max_instances": 4}, ' + (
        '{"at": "cron(0 18 * * ? *)", "min_instances": 1, "max_instances": 2}]'
    )
    hours = '{"off": "cron(0 20 * * ? *)", "on": "cron(0 8 * * ? *)"}'
    with pytest.raises(SettingsError, match=r"schedule: .*capacity at cron\(0 8 \* \* \? \*\) is when endpoint comes or goes"):
        load_settings({**context, "stage": "prod", "schedule.capacity": capacity, "schedule.endpoint": hours})


def test_machine_logs_hold_no_data(prod: Templates) -> None:
    for _, item in resources(prod, "AWS::StepFunctions::StateMachine"):
        assert item["Properties"]["LoggingConfiguration"]["IncludeExecutionData"] is False


@pytest.mark.parametrize("stage", ["local", "dev", "prod"])
def test_every_stage_synthesises_without_an_account(stage: str) -> None:
    templates, _ = synthesise(stage)
    assert set(templates) == {"data", "pipeline", "serving", "api", "observability"}


def test_a_stage_is_taken_away_in_the_order_in_which_its_stacks_import_from_each_other() -> None:
    network = {"network.vpc": "new", "network.egress": "true"}
    templates, _ = synthesise("prod", **{"serving.enabled": "true", "api.waf_requests_per_5_minutes": "2000"}, **network)
    assert set(templates) == set(ORDER)
    for name, template in templates.items():
        for exporting in re.findall(r'"Fn::ImportValue": "ko-reranker-prod-(\w+):', json.dumps(template)):
            assert ORDER.index(name) < ORDER.index(exporting), f"{exporting} can't go while {name} imports from it"


def test_lint_finds_nothing_in_the_templates(prod: Templates) -> None:
    assert lint.findings(prod, "ap-northeast-2") == []


def test_lint_finds_a_wrong_property_and_a_state_that_is_missing(prod: Templates) -> None:
    wrong = json.loads(json.dumps({"pipeline": prod["pipeline"]}).replace("ItemProcessor", "ItemProcesor", 1))
    _, function = next(resources(wrong, "AWS::Lambda::Function"))
    function["Properties"]["MemorySise"] = 512
    properties, states = lint.findings(wrong, "ap-northeast-2")
    assert properties.startswith("cfn-lint: ") and "MemorySise" in properties
    assert states.startswith("asl-validator: ")


def test_the_images_build_has_room_for_cuda(prod: Templates) -> None:
    (project,) = [item["Properties"] for _, item in resources(prod, "AWS::CodeBuild::Project")]
    assert project["Environment"]["ComputeType"] == "BUILD_GENERAL1_LARGE"
    assert project["Environment"]["PrivilegedMode"] is True, "Docker needs it"
    assert project.get("TimeoutInMinutes", 60) >= 60


def test_the_image_comes_from_a_registry_without_limits_and_asks_for_the_gpu() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "ARG BASE_IMAGE=public.ecr.aws/docker/library/python:" in dockerfile
    assert "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" in dockerfile
    bases = re.findall(r"^ARG (?:BASE|CUDA)_IMAGE=(\S+)", dockerfile, re.MULTILINE)
    hosts = {base.split("/")[0] for base in bases}
    assert hosts == {"public.ecr.aws", "nvcr.io"}, "without a host's name it would be Docker Hub, which limits CodeBuild"
    installs = re.findall(r"pip install [^\n]*", dockerfile)
    assert all("--no-deps" in line for line in installs), "a lock that lacks something fails instead of being added to"
