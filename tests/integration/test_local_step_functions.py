"""State machines in the local cloud: AWS's rules for maps and errors, and the role's permissions on every edge."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from local_support import Account, allow, eventually, free_port, one_state, policy, task

from local_cloud.cloud import LocalCloud
from local_cloud.settings import Image

SOURCE = """
class Poison(Exception):
    pass

def handle(event, context):
    if event.get("endpoint"):
        import boto3, botocore.exceptions
        try:
            boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName=event["endpoint"], Body=b"{}")
        except botocore.exceptions.ClientError as error:
            return {"code": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]}
    items = event.get("Items", [event])
    if any(item.get("poison") for item in items):
        raise Poison("a bad item")
    return {"count": len(items), "shared": event.get("BatchInput"), "rest": max(event.get("rest", 0) - 1, 0)}
"""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    stub = tmp_path_factory.mktemp("stub") / "command.py"
    stub.write_text(STUB)
    images = {"local/stub": Image((sys.executable, str(stub)))}
    root = tmp_path_factory.mktemp("cloud")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), images=images) as cloud:
        yield Account(cloud)


@pytest.fixture(scope="module")
def function(account: Account) -> str:
    return account.function(SOURCE)


@pytest.fixture(scope="module")
def bucket(account: Account) -> str:
    s3 = account.client("s3")
    s3.create_bucket(Bucket="items", CreateBucketConfiguration={"LocationConstraint": account.region})
    lines = "\n".join(json.dumps({"n": n, "poison": n == 9}) for n in range(10))
    s3.put_object(Bucket="items", Key="in/ten.jsonl", Body=lines.encode())
    return "items"


def distributed(function: str, **fields: Any) -> dict:
    """A Distributed Map over the ten items, the last of which fails."""
    return one_state(
        {
            "Type": "Map",
            "Label": "Shards",
            "MaxConcurrency": 2,
            "ItemReader": {
                "Resource": "arn:aws:states:::s3:getObject",
                "ReaderConfig": {"InputType": "JSONL"},
                "Parameters": {"Bucket": "items", "Key": "in/ten.jsonl"},
            },
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                "StartAt": "Translate",
                "States": {
                    "Translate": {
                        "Type": "Task",
                        "Resource": "arn:aws:states:::lambda:invoke",
                        "Parameters": {"FunctionName": function, "Payload.$": "$"},
                        "OutputPath": "$.Payload",
                        "End": True,
                    }
                },
            },
            **fields,
        }
    )


WRITER = {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": "items", "Prefix": "map"}}


def map_statements(function: str) -> dict[str, dict]:
    return {
        "invoke": allow("lambda:InvokeFunction", function),
        "start": allow("states:StartExecution"),
        "read": allow("s3:GetObject", "arn:aws:s3:::items/in/*"),
        "write": allow(
            ["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
            "arn:aws:s3:::items/map/*",
        ),
    }


class TestDistributedMap:
    def test_batches_run_and_results_are_written_and_failures_tolerated(self, account: Account, function: str, bucket: str):
        definition = distributed(
            function,
            ItemBatcher={"MaxItemsPerBatch": 4, "BatchInput": {"run.$": "$.run"}},
            ToleratedFailurePercentagePath="$.tolerated",
            ResultWriter=WRITER,
        )
        result = account.run(definition, *map_statements(function).values(), data={"run": "r1", "tolerated": 20})
        assert result["status"] == "SUCCEEDED", result
        place = result["output"]["ResultWriterDetails"]
        s3 = account.client("s3")
        manifest = json.loads(s3.get_object(**place)["Body"].read())
        succeeded, failed = (manifest["ResultFiles"][outcome][0]["Key"] for outcome in ("SUCCEEDED", "FAILED"))
        rows = json.loads(s3.get_object(Bucket=bucket, Key=succeeded)["Body"].read())
        assert [json.loads(row["Output"]) for row in rows] == [{"count": 4, "shared": {"run": "r1"}, "rest": 0}] * 2
        (row,) = json.loads(s3.get_object(Bucket=bucket, Key=failed)["Body"].read())
        assert (row["Status"], row["Error"]) == ("FAILED", "Poison")

    def test_too_many_failures_fail_the_map(self, account: Account, function: str, bucket: str):
        definition = distributed(function, ToleratedFailurePercentage=5, ItemBatcher={"MaxItemsPerBatch": 5})
        result = account.run(definition, *map_statements(function).values())
        assert (result["status"], result["error"]) == ("FAILED", "States.ExceedToleratedFailureThreshold")

    def test_progress_is_counted_and_children_are_listed(self, account: Account, function: str, bucket: str):
        definition = distributed(function, ToleratedFailureCount=1, ItemSelector={"poison.$": "$$.Map.Item.Value.poison"})
        result = account.run(definition, *map_statements(function).values())
        step_functions = account.client("stepfunctions")
        (run,) = step_functions.list_map_runs(executionArn=result["executionArn"])["mapRuns"]
        counts = step_functions.describe_map_run(mapRunArn=run["mapRunArn"])["itemCounts"]
        assert (counts["total"], counts["succeeded"], counts["failed"]) == (10, 9, 1)
        assert len(step_functions.list_executions(mapRunArn=run["mapRunArn"])["executions"]) == 10

    def test_a_child_may_loop_through_a_choice(self, account: Account, function: str, bucket: str):
        invoke = {"Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": function, "Payload.$": "$"}}
        states = {
            "Work": {"Type": "Task", **invoke, "OutputPath": "$.Payload", "Next": "Left?"},
            "Left?": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.rest", "NumericGreaterThan": 0, "Next": "Work"}],
                "Default": "Done",
            },
            "Done": {"Type": "Succeed"},
        }
        definition = distributed(function, ItemSelector={"rest": 2})
        definition["States"]["Only"]["ItemProcessor"].update(StartAt="Work", States=states)
        result = account.run(definition, *map_statements(function).values())
        assert result["status"] == "SUCCEEDED", result
        assert {item["rest"] for item in result["output"]} == {0}

    @pytest.mark.parametrize(
        ("missing", "error", "action"),
        [
            ("start", "StepFunctions.AWSStepFunctionsException", "states:StartExecution"),
            ("read", "States.ItemReaderFailed", "s3:GetObject"),
            ("write", "States.ResultWriterFailed", "s3:PutObject"),
        ],
    )
    def test_each_permission_of_the_map_is_needed(
        self, account: Account, function: str, bucket: str, missing: str, error: str, action: str
    ):
        statements = map_statements(function)
        del statements[missing]
        definition = distributed(function, ToleratedFailureCount=1, ResultWriter=WRITER)
        result = account.run(definition, *statements.values())
        assert (result["status"], result["error"]) == ("FAILED", error)
        assert f"is not authorized to perform: {action}" in result["cause"]


def edges(function: str) -> dict[str, tuple[dict, dict, str]]:
    """A task, the statement it needs, and the error without it."""
    table = "arn:aws:dynamodb:ap-northeast-2:000000000000:table/locks"
    key = {"id": {"S": "lock"}}
    set_owner = {
        "TableName": "locks",
        "Key": key,
        "UpdateExpression": "SET #o = :o",
        "ExpressionAttributeNames": {"#o": "owner"},
        "ExpressionAttributeValues": {":o": {"S": "me"}},
    }
    states = "arn:aws:states:::"
    missing_table = "DynamoDB.AmazonDynamoDBException"
    return {
        "lambda:invoke": (
            task(f"{states}lambda:invoke", {"FunctionName": function, "Payload": {}}),
            allow("lambda:InvokeFunction", function),
            "Lambda.AWSLambdaException",
        ),
        "function ARN": (task(function, {}), allow("lambda:InvokeFunction", function), "Lambda.AWSLambdaException"),
        "dynamodb:putItem": (
            task(f"{states}dynamodb:putItem", {"TableName": "locks", "Item": key}),
            allow("dynamodb:PutItem", table),
            missing_table,
        ),
        "dynamodb:getItem": (
            task(f"{states}dynamodb:getItem", {"TableName": "locks", "Key": key}),
            allow("dynamodb:GetItem", table),
            missing_table,
        ),
        "dynamodb:updateItem": (
            task(f"{states}dynamodb:updateItem", set_owner),
            allow("dynamodb:UpdateItem", table),
            missing_table,
        ),
        "dynamodb:deleteItem": (
            task(f"{states}dynamodb:deleteItem", {"TableName": "locks", "Key": key}),
            allow("dynamodb:DeleteItem", table),
            missing_table,
        ),
        "sns:publish": (
            task(
                f"{states}sns:publish",
                {"TopicArn": "arn:aws:sns:ap-northeast-2:000000000000:news", "Message": {"state": "failed"}},
            ),
            allow("sns:Publish", "arn:aws:sns:ap-northeast-2:000000000000:news"),
            "SNS.AuthorizationErrorException",
        ),
        "ssm:putParameter": (
            task(f"{states}aws-sdk:ssm:putParameter", {"Name": "/live", "Value": "{}", "Type": "String", "Overwrite": True}),
            allow("ssm:PutParameter", "arn:aws:ssm:ap-northeast-2:000000000000:parameter/live"),
            "Ssm.",
        ),
        "ssm:getParameter": (
            task(f"{states}aws-sdk:ssm:getParameter", {"Name": "/live"}),
            allow("ssm:GetParameter", "arn:aws:ssm:ap-northeast-2:000000000000:parameter/live"),
            "Ssm.",
        ),
        "s3:getObject": (
            task(f"{states}aws-sdk:s3:getObject", {"Bucket": "items", "Key": "in/ten.jsonl"}, ResultPath=None),
            allow("s3:GetObject", "arn:aws:s3:::items/in/*"),
            "S3.S3Exception",
        ),
        "sagemaker:listModelPackages": (
            task(f"{states}aws-sdk:sagemaker:listModelPackages", {"MaxResults": 1}),
            allow("sagemaker:ListModelPackages"),
            "SageMaker.SageMakerException",
        ),
    }


@pytest.fixture(scope="module")
def targets(account: Account, bucket: str) -> None:
    """What the tasks act on."""
    account.client("sns").create_topic(Name="news")
    account.client("ssm").put_parameter(Name="/live", Value="{}", Type="String")
    account.client("dynamodb").create_table(
        TableName="locks",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.mark.parametrize("edge", list(edges("")))
def test_a_task_runs_with_its_permission_and_fails_without(account: Account, function: str, targets: None, edge: str):
    definition, statement, error = edges(function)[edge]
    allowed = account.run(definition, statement)
    assert allowed["status"] == "SUCCEEDED", allowed.get("cause")
    refused = account.run(definition, allow("s3:ListAllMyBuckets"))
    assert refused["status"] == "FAILED"
    assert refused["error"].startswith(error)
    assert "is not authorized to perform" in refused["cause"]


STUB = """
import json, os, pathlib, sys, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
if sys.argv[1] == "train":
    if json.loads((base / "input/config/hyperparameters.json").read_text()).get("fail"):
        (base / "output").mkdir(exist_ok=True)
        (base / "output/failure").write_text("the training data is empty")
        sys.exit(1)
    time.sleep(float(json.loads((base / "input/config/hyperparameters.json").read_text()).get("sleep", 0)))
    (base / "model").mkdir(exist_ok=True)
    (base / "model/model.bin").write_text("trained")
"""


@pytest.fixture(scope="module")
def job_role(account: Account, bucket: str) -> str:
    """The role of SageMaker jobs."""
    everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return account.role(
        "sagemaker.amazonaws.com",
        allow(["s3:GetObject", "s3:PutObject", "s3:ListBucket"], everything),
        allow(["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]),
    )


class TestJobs:
    """SageMaker jobs that a task waits for."""

    RULES = allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], "arn:aws:events:*:*:rule/StepFunctions*")

    def definition(self, account: Account, role: str, kind: str, **hyperparameters: str) -> dict:
        cluster = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}
        if kind == "Training":
            specific = {
                "AlgorithmSpecification": {"TrainingImage": "local/stub:latest", "TrainingInputMode": "File"},
                "OutputDataConfig": {"S3OutputPath": "s3://items/models", "CompressionType": "NONE"},
                "ResourceConfig": cluster,
                "HyperParameters": hyperparameters,
            }
        else:
            specific = {
                "AppSpecification": {"ImageUri": "local/stub:latest", "ContainerArguments": ["mine"]},
                "ProcessingResources": {"ClusterConfig": cluster},
            }
        stop = {"StoppingCondition": {"MaxRuntimeInSeconds": 600}}
        parameters = {f"{kind}JobName": account.name("job"), "RoleArn": role, **specific, **stop}
        return task(f"arn:aws:states:::sagemaker:create{kind}Job.sync", parameters)

    def statements(self, role: str, kind: str) -> dict[str, dict]:
        jobs = f"arn:aws:sagemaker:*:*:{kind.lower()}-job/*"
        passed = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
        return {
            f"sagemaker:Create{kind}Job": allow(f"sagemaker:Create{kind}Job", jobs),
            f"sagemaker:Describe{kind}Job": allow(f"sagemaker:Describe{kind}Job", jobs),
            "iam:PassRole": allow("iam:PassRole", role, **passed),
        }

    @pytest.mark.parametrize("kind", ["Training", "Processing"])
    def test_the_task_waits_and_returns_the_description(self, account: Account, job_role: str, kind: str):
        statements = self.statements(job_role, kind).values()
        result = account.run(self.definition(account, job_role, kind), self.RULES, *statements)
        assert result["status"] == "SUCCEEDED", result.get("cause")
        assert result["output"][f"{kind}JobStatus"] == "Completed"

    def test_a_failed_job_fails_the_task_with_its_own_sentence(self, account: Account, job_role: str):
        statements = self.statements(job_role, "Training").values()
        definition = self.definition(account, job_role, "Training", fail="yes")
        result = account.run(definition, self.RULES, *statements)
        assert (result["status"], result["error"]) == ("FAILED", "States.TaskFailed")
        assert "the training data is empty" in json.loads(result["cause"])["FailureReason"]

    @pytest.mark.parametrize("kind", ["Training", "Processing"])
    @pytest.mark.parametrize("number", range(3))
    def test_each_permission_is_needed(self, account: Account, job_role: str, kind: str, number: int):
        statements = self.statements(job_role, kind)
        action = list(statements)[number]
        del statements[action]
        result = account.run(self.definition(account, job_role, kind), self.RULES, *statements.values())
        assert (result["status"], result["error"]) == ("FAILED", "SageMaker.AmazonSageMakerException")
        assert f"is not authorized to perform: {action}" in result["cause"]

    def test_a_role_that_may_not_manage_the_rule_creates_no_state_machine(self, account: Account, job_role: str):
        with pytest.raises(ClientError, match="not authorized to create managed-rule") as refused:
            account.machine(self.definition(account, job_role, "Training"))
        assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


class TestFunctions:
    def test_a_function_sees_the_managed_runtime_and_nothing_of_the_server(self, account: Account):
        source = """
import os

def handle(event, context):
    found = []
    for name in ("boto3", "numpy", "ko_reranker", "ministack"):
        try:
            __import__(name)
            found.append(name)
        except ModuleNotFoundError:
            pass
    return {"found": found, "foreign": [name for name in os.environ if name.startswith(("MINISTACK", "GATEWAY", "STATE_"))]}
"""
        answer = account.client("lambda").invoke(FunctionName=account.function(source))
        assert json.loads(answer["Payload"].read()) == {"found": ["boto3"], "foreign": []}

    def test_an_error_keeps_its_type(self, account: Account, function: str):
        answer = account.client("lambda").invoke(FunctionName=function, Payload=b'{"poison": true}')
        assert json.loads(answer["Payload"].read())["errorType"] == "Poison"


class TestNames:
    def test_a_missing_parameter_is_caught_by_its_java_name(self, account: Account):
        definition = {
            "StartAt": "Read",
            "States": {
                "Read": {
                    "Type": "Task",
                    "Resource": "arn:aws:states:::aws-sdk:ssm:getParameter",
                    "Parameters": {"Name": "/nothing"},
                    "Catch": [{"ErrorEquals": ["Ssm.ParameterNotFoundException"], "Next": "Caught"}],
                    "End": True,
                },
                "Caught": {"Type": "Pass", "Result": "caught", "End": True},
            },
        }
        assert account.run(definition, allow("ssm:GetParameter"))["output"] == "caught"

    def test_a_lost_lock_is_caught_by_its_name(self, account: Account, targets: None):
        condition = {"ConditionExpression": "attribute_not_exists(id)"}
        definition = task(
            "arn:aws:states:::dynamodb:putItem", {"TableName": "locks", "Item": {"id": {"S": "held"}}, **condition}
        )
        statement = allow("dynamodb:PutItem")
        assert account.run(definition, statement)["status"] == "SUCCEEDED"
        assert account.run(definition, statement)["error"] == "DynamoDB.ConditionalCheckFailedException"


class TestNested:
    RULES = allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], "arn:aws:events:*:*:rule/StepFunctions*")

    def definition(self, child: str) -> dict:
        parameters = {"StateMachineArn": child, "Input.$": "$"}
        return task("arn:aws:states:::states:startExecution.sync:2", parameters, OutputPath="$.Output")

    def test_a_task_waits_for_another_state_machine_and_returns_its_output(self, account: Account):
        child = account.machine(one_state({"Type": "Pass", "Parameters": {"got.$": "$.x"}}))
        statements = (allow("states:StartExecution", child), allow("states:DescribeExecution"))
        result = account.run(self.definition(child), self.RULES, *statements, data={"x": 1})
        assert result["output"] == {"got": 1}
        refused = account.run(self.definition(child), self.RULES, data={"x": 1})
        assert refused["error"] == "StepFunctions.AWSStepFunctionsException"

    def test_a_failed_child_fails_the_task_with_the_child_s_cause(self, account: Account):
        child = account.machine(one_state({"Type": "Fail", "End": None, "Error": "Gate", "Cause": "below the base"}))
        statements = (allow("states:StartExecution", child), allow("states:DescribeExecution"))
        result = account.run(self.definition(child), self.RULES, *statements)
        assert result["error"] == "States.TaskFailed"
        assert json.loads(result["cause"])["Cause"] == "below the base"


class TestStop:
    def test_stopping_an_execution_stops_its_job_and_stays_aborted(self, account: Account, job_role: str):
        jobs = TestJobs()
        statements = [*jobs.statements(job_role, "Training").values(), allow("sagemaker:StopTrainingJob")]
        definition = jobs.definition(account, job_role, "Training", sleep="60")
        machine = account.machine(definition, jobs.RULES, *statements)
        step_functions, sagemaker = account.client("stepfunctions"), account.client("sagemaker")
        execution = step_functions.start_execution(stateMachineArn=machine)["executionArn"]
        name = {"TrainingJobName": definition["States"]["Only"]["Parameters"]["TrainingJobName"]}

        def started() -> bool:
            return bool(sagemaker.list_training_jobs(NameContains=name["TrainingJobName"])["TrainingJobSummaries"])

        assert eventually(started)
        step_functions.stop_execution(executionArn=execution, cause="enough")
        status = eventually(lambda: sagemaker.describe_training_job(**name)["TrainingJobStatus"] in ("Stopped", "Stopping"))
        assert status
        assert step_functions.describe_execution(executionArn=execution)["status"] == "ABORTED"


class TestEndpointFromFunction:
    def test_invoke_endpoint_needs_permission(self, account: Account):
        data = json.dumps({"endpoint": "absent"}).encode()
        allowed = account.function(SOURCE, allow("sagemaker:InvokeEndpoint", account.arn("sagemaker", "endpoint/absent")))
        refused = account.function(SOURCE, allow("sagemaker:InvokeEndpoint", account.arn("sagemaker", "endpoint/other")))
        answers = [
            json.loads(account.client("lambda").invoke(FunctionName=name, Payload=data)["Payload"].read())
            for name in (allowed, refused)
        ]
        assert answers[0]["code"] == "ValidationError"
        assert answers[1]["code"] == "AccessDeniedException"
        assert "sagemaker:InvokeEndpoint" in answers[1]["message"]


class TestEnd:
    def test_an_execution_that_outlives_its_time_is_timed_out(self, account: Account):
        definition = {"TimeoutSeconds": 1, **one_state({"Type": "Wait", "Seconds": 3})}
        assert account.run(definition)["status"] == "TIMED_OUT"

    def test_failures_and_time_outs_reach_a_topic_that_lets_event_bridge_in(self, account: Account):
        sns, sqs, events = (account.client(name) for name in ("sns", "sqs", "events"))
        topic = sns.create_topic(Name=account.name("alerts"))["TopicArn"]
        url = sqs.create_queue(QueueName=account.name("inbox"))["QueueUrl"]
        queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        open_queue = policy({"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": open_queue})
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
        machine = account.machine(one_state({"Type": "Fail", "End": None, "Error": "E", "Cause": "on purpose"}))
        pattern = {
            "source": ["aws.states"],
            "detail-type": ["Step Functions Execution Status Change"],
            "detail": {"status": ["FAILED", "TIMED_OUT", "ABORTED"], "stateMachineArn": [machine]},
        }
        rule = events.put_rule(Name=account.name("rule"), EventPattern=json.dumps(pattern))["RuleArn"]
        events.put_targets(Rule=rule.rsplit("/", 1)[1], Targets=[{"Id": "topic", "Arn": topic}])

        def set_policy(principal: str) -> None:
            statement = {
                "Effect": "Allow",
                "Principal": {"Service": principal},
                "Action": "sns:Publish",
                "Resource": topic,
                "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
            }
            sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy(statement))

        def received(seconds: float) -> list[dict]:
            return eventually(lambda: sqs.receive_message(QueueUrl=url).get("Messages"), seconds) or []

        set_policy("s3.amazonaws.com")
        assert account.execute(machine)["status"] == "FAILED"
        assert received(1.0) == []
        set_policy("events.amazonaws.com")
        assert account.execute(machine)["status"] == "FAILED"
        (message,) = received(5.0)
        assert "on purpose" in message["Body"]

    def test_a_rule_starts_a_state_machine_in_its_role_only(self, account: Account):
        events, step_functions = account.client("events"), account.client("stepfunctions")
        machine = account.machine(one_state({"Type": "Pass"}))
        rule = account.name("rule")
        events.put_rule(Name=rule, EventPattern=json.dumps({"source": ["test.release"]}))

        def executions_after(role: str, expected: int) -> int:
            events.put_targets(Rule=rule, Targets=[{"Id": "machine", "Arn": machine, "RoleArn": role}])
            events.put_events(Entries=[{"Source": "test.release", "DetailType": "t", "Detail": "{}"}])

            def count() -> int:
                return len(step_functions.list_executions(stateMachineArn=machine)["executions"])

            eventually(lambda: count() >= expected, 2.0 if expected else 0.5)
            return count()

        start = allow("states:StartExecution", machine)
        assert executions_after(account.role("events.amazonaws.com", allow("states:StopExecution")), 0) == 0
        assert executions_after(account.role("lambda.amazonaws.com", start), 0) == 0
        assert executions_after(account.role("events.amazonaws.com", start), 1) == 1


class TestKeys:
    def test_an_encrypted_table_needs_its_key(self, account: Account):
        key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
        account.client("dynamodb").create_table(
            TableName="encrypted",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
            SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": key},
        )
        definition = task("arn:aws:states:::dynamodb:putItem", {"TableName": "encrypted", "Item": {"id": {"S": "a"}}})
        refused = account.run(definition, allow("dynamodb:PutItem"))
        assert "kms:Decrypt" in refused.get("cause", ""), refused
        assert account.run(definition, allow("dynamodb:PutItem"), allow("kms:Decrypt", key))["status"] == "SUCCEEDED"
