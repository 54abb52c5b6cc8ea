"""The local stage with a stub image, deployed once by the real CDK command line and then changed through CloudFormation."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
from deployed_stage import PROJECT

from ko_reranker.operations import asking, endpoint, executions
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.executions import Outcome
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import STACKS, Stage
from ko_reranker.samples import paths
from local_cloud import deploying
from local_cloud.cloud import LocalCloud
from local_cloud.settings import Image

# Waits and retries of the state machines last a twentieth of their seconds: 15 minutes of looking for a release become 45 s.
_WAIT_SCALE = 0.05
_RECORDS = 16
_MODEL = "models/base/stub/"
_SECONDS = 40


def eventually(check: Callable[[], Any], seconds: float = _SECONDS) -> Any:
    """Call until the answer is true; return the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


class StubStage:
    """A deployed stage, what to run on it, and its templates to take permissions from.

    Args:
        root: the local cloud's folder.
        settings: other settings than those of the local stage.
    """

    def __init__(self, root: Path, port: int, gateway_port: int, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})
        # Jobs name the image's program: the stub must go by the same name.
        program = root / "image" / "ko-reranker"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("stub_image.py")}" "$@"\n')
        program.chmod(0o755)
        image = Image((str(program),))
        self.cloud = LocalCloud(root, port, gateway_port, images={"local/ko-reranker": image}, wait_scale=_WAIT_SCALE)
        self.assembly = root / "assembly"
        self._changed: str | None = None
        self._runs = 0

    # ---------------------------------------------------------------- deploying

    def deploy(self) -> None:
        """Synthesise once; deploy the data stack, choose a first model by hand, and deploy the rest."""
        deploying.bootstrap(PROJECT, self.cloud)
        context = [word for pair in self._settings.items() for word in ("--context", "=".join(pair))]
        self.cdk("synth", "--quiet", "--context", "stage=local", *context, "--output", str(self.assembly))
        self.stage = Stage.connect("local", Project.find(PROJECT), cloud=self.cloud)
        self.cdk("deploy", f"{self.stage.prefix}-data", "--exclusively", "--app", str(self.assembly))
        bucket = self.stage.output("DataBucket")
        s3 = self.cloud.client("s3")
        s3.put_object(Bucket=bucket, Key=f"{_MODEL}model.json", Body=b'{"seed": "base"}')
        s3.put_object(Bucket=bucket, Key="raw/sample/records.jsonl", Body=_records())
        self._choose_first_model(f"s3://{bucket}/{_MODEL}")
        self.cdk("deploy", "--all", "--app", str(self.assembly))
        self.stage = Stage.connect("local", Project.find(PROJECT), cloud=self.cloud)
        self._subscribe()
        self.templates = {
            stack: json.loads((self.assembly / f"{self.stage.prefix}-{stack}.template.json").read_text()) for stack in STACKS
        }

    def _choose_first_model(self, uri: str) -> None:
        name = self.stage.output("LiveModelParameter")
        self.cloud.client("ssm").put_parameter(Name=name, Value=f"none,{uri},local/ko-reranker:latest", Overwrite=True)

    def cdk(self, command: str, *arguments: str) -> None:
        """Run a command of the CDK against the cloud; `app` arguments name the assembly that was synthesised."""
        program = [str(PROJECT / "node_modules" / ".bin" / "cdk"), command, *arguments]
        if command == "deploy":
            program += ["--require-approval", "never", "--progress", "events"]
        environment = {**os.environ, "CDK_VALIDATION": "false", "CDK_DISABLE_VERSION_CHECK": "1", "CI": "true"}
        done = subprocess.run(
            program, cwd=PROJECT, env=self.cloud.process_environment(environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def update(self, stack: str, template: dict[str, Any]) -> str:
        """Update a stack to a template, as `cdk deploy` would; return what went wrong, or nothing."""
        name, client = f"{self.stage.prefix}-{stack}", self.cloud.client("cloudformation")
        bucket = f"cdk-hnb659fds-assets-{self.cloud.settings.account_id}-{self.cloud.settings.region}"
        self.cloud.client("s3").put_object(Bucket=bucket, Key=f"{name}.json", Body=json.dumps(template).encode())
        before = client.describe_stack_events(StackName=name)["StackEvents"]
        try:
            client.update_stack(
                StackName=name,
                TemplateURL=f"{self.cloud.settings.endpoint_url}/{bucket}/{name}.json",
                Parameters=[{"ParameterKey": key, "UsePreviousValue": True} for key in template.get("Parameters", ())],
                Capabilities=["CAPABILITY_NAMED_IAM"],
            )
        except client.exceptions.ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            return ""

        def status() -> str | None:
            found = client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
            return None if found.endswith("IN_PROGRESS") else found

        if eventually(status) == "UPDATE_COMPLETE":
            return ""
        seen = {event["EventId"] for event in before}
        new = (event for event in client.describe_stack_events(StackName=name)["StackEvents"] if event["EventId"] not in seen)
        return "\n".join(event.get("ResourceStatusReason", "") for event in new if "FAILED" in event["ResourceStatus"])

    def change(self, stack: str, template: dict[str, Any]) -> None:
        """Update one stack to another template; what was changed before in another stack comes back."""
        if self._changed != stack:
            self.restore()
            # With what was released since: what is then changed is the template alone.
            problem = self.update(stack, self.templates[stack])
            assert not problem, problem
        self._changed = stack
        problem = self.update(stack, template)
        assert not problem, problem

    def refused_update(self, stack: str, template: dict[str, Any]) -> str:
        """Update a stack to a template that can't be deployed; return why."""
        self.restore()
        problem = self.update(stack, template)
        self._changed = None if problem else stack
        return problem

    def restore(self) -> None:
        """Deploy the original template of what was changed last."""
        if self._changed is not None:
            problem = self.update(self._changed, self.templates[self._changed])
            assert not problem, problem
            self._changed = None

    # ---------------------------------------------------------------- running

    def retrain(self, execution_input: dict[str, Any] | None = None, *, leftover: bool = False) -> Outcome:
        """Retrain on a few records, none of which was translated before.

        Args:
            leftover: an earlier attempt of this run has left something in quarantine.
        """
        self._forget_translations()
        self._runs += 1
        name = f"run-{self._runs}"
        if leftover:
            bucket = self.stage.output("DataBucket")
            self.cloud.client("s3").put_object(Bucket=bucket, Key=f"runs/{name}/quarantine/old.jsonl", Body=b"{}\n")
        return self.outcome(executions.start(self.stage, "RetrainStateMachine", execution_input or {}, name))

    def outcome(self, execution: str) -> Outcome:
        """Wait for an execution's end."""
        self._last = execution
        client = self.cloud.client("stepfunctions")
        eventually(lambda: client.describe_execution(executionArn=execution)["status"] != "RUNNING")
        return executions.outcome(self.stage, execution)

    def causes(self) -> str:
        """What the states of the last execution failed with, caught or not."""
        pages = self.cloud.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=self._last)
        details = [value for page in pages for event in page["events"] for value in event.values() if isinstance(value, dict)]
        # A caught error's cause is in the input of the state that goes on from there.
        return "\n".join(item.get("cause") or item.get("input") or "" for item in details)

    def release(self, *, stale_lock: bool = False) -> Outcome | None:
        """Approve a package of the first model; return how its deployment ended, None when none began.

        Args:
            stale_lock: an execution that has ended holds the lock.
        """
        machine = self.stage.output("DeployStateMachine")
        client = self.cloud.client("stepfunctions")
        before = {item["executionArn"] for item in client.list_executions(stateMachineArn=machine)["executions"]}
        self._lock(min(before) if stale_lock else None)
        bucket, sagemaker = self.stage.output("DataBucket"), self.cloud.client("sagemaker")
        source = {"S3Uri": f"s3://{bucket}/{_MODEL}", "S3DataType": "S3Prefix", "CompressionType": "None"}
        self.cloud.client("s3").put_object(
            Bucket=bucket, Key="models/base/evaluation/golden.json", Body=json.dumps({"queries": [_GOLDEN]}).encode()
        )
        sagemaker.create_model_package(
            ModelPackageGroupName=self.stage.output("ModelPackageGroup"),
            ModelApprovalStatus="Approved",
            InferenceSpecification={
                "Containers": [{"Image": "local/ko-reranker:latest", "ModelDataSource": {"S3DataSource": source}}],
                "SupportedContentTypes": ["application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
            CustomerMetadataProperties={"golden": f"s3://{bucket}/models/base/evaluation/golden.json"},
        )

        def started() -> list[str]:
            found = client.list_executions(stateMachineArn=machine)["executions"]
            return [item["executionArn"] for item in found if item["executionArn"] not in before]

        new = eventually(started, 2)
        return self.outcome(new[0]) if new else None

    def _lock(self, holder: str | None) -> None:
        dynamodb, table = self.cloud.client("dynamodb"), self.stage.output("ReleasesTable")
        if holder:
            dynamodb.put_item(TableName=table, Item={"id": {"S": "lock"}, "execution": {"S": holder}})
        else:
            dynamodb.delete_item(TableName=table, Key={"id": {"S": "lock"}})

    def switch(self, to: Literal["on", "off"]) -> Outcome:
        """Bring the endpoint ``on`` or take it ``off``; return how that ended."""
        return self.outcome(endpoint.switch(self.stage, to))

    def come_back(self) -> Outcome:
        """Take an endpoint that is there away and bring it back; return what failed first, or the last."""
        if (self.stage.live_model() or ["none"])[0] == "none":
            assert (released := self.release()) and released.succeeded
        steps: list[Literal["on", "off"]] = ["on", "off", "on"]
        for to in steps:
            outcome = self.switch(to)
            if not outcome.succeeded:
                break
        return outcome

    def is_there(self) -> bool:
        """Whether there is an endpoint, whatever its status."""
        return endpoint.look(self.stage).status is not None

    def wake(self) -> str:
        """Take the endpoint away and ask the API, which wakes it once in its `serving.wake_seconds`.

        Returns:
            What went wrong, or nothing.
        """
        if (self.stage.live_model() or ["none"])[0] == "none":
            assert (released := self.release()) and released.succeeded
        off = self.switch("off")
        assert off.succeeded, off.cause
        seconds = 30

        def answered() -> bool:
            answer = self.post()
            assert answer.status_code in (200, 429), answer.text
            assert answer.status_code == 200 or 15 <= int(answer.headers["Retry-After"]) <= seconds
            return answer.status_code == 200 or bool(time.sleep(0.5))

        # Another wake may have begun within this one's time.
        if eventually(answered, seconds + _SECONDS):
            return ""
        machine = self.stage.output("DeployStateMachine").removesuffix("-deploy") + "-wake"
        client = self.cloud.client("stepfunctions")
        found = client.list_executions(stateMachineArn=machine)["executions"][:1]
        causes = [client.describe_execution(executionArn=item["executionArn"]).get("cause", "") for item in found]
        return f"a request does not bring the endpoint back: {causes}"

    def post(self) -> httpx.Response:
        """Send a request to the rerank API."""
        headers = {"x-api-key": self.stage.api_key}
        return httpx.post(f"{self.stage.api_url}/v2/rerank", json=_GOLDEN, headers=headers, timeout=30)

    def ask(self) -> str:
        """Ask the rerank API; return what went wrong, or nothing."""
        try:
            asking.rerank(self.stage.api_url, self.stage.api_key, _GOLDEN["query"], _GOLDEN["documents"])
        except OperationError as error:
            return str(error)
        return ""

    def documents_left(self) -> str:
        """Ask the rerank API; return how many documents the key has left in this minute, "" when nobody counts them."""
        answer = self.post()
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-ratelimit-remaining", "")

    def look_at_age(self) -> str:
        """Have the live model's age told, as the schedule does daily; return what went wrong, or nothing."""
        return self._invoke("ModelAge")

    def keep_house(self) -> str:
        """Have what is old looked at, as the schedule does daily; return what went wrong, or nothing."""
        logs, name = self.cloud.client("logs"), "/aws/sagemaker/TrainingJobs"
        if logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]:
            logs.delete_retention_policy(logGroupName=name)  # or there is nothing to do
        else:
            logs.create_log_group(logGroupName=name)
        return self._invoke("Housekeeping")

    def _invoke(self, function: str) -> str:
        """Invoke the function that has this in its name; return its error, or nothing."""
        client = self.cloud.client("lambda")
        (name,) = [item["FunctionName"] for item in client.list_functions()["Functions"] if function in item["FunctionName"]]
        answer = client.invoke(FunctionName=name, Payload=b"{}")
        return answer["Payload"].read().decode() if "FunctionError" in answer else ""

    def notice(self) -> bool:
        """Let an execution fail; return whether the topic told its subscriber."""
        # A queue hands out ten messages at a time, and every run that failed so far has left its own.
        self.cloud.client("sqs").purge_queue(QueueUrl=self._queue)
        outcome = self.retrain({"dataset": "nowhere"})
        assert outcome.status == "FAILED"
        return bool(eventually(lambda: f"run-{self._runs} FAILED" in self.received(), 2))

    def _subscribe(self) -> None:
        sqs, sns = self.cloud.client("sqs"), self.cloud.client("sns")
        self._queue = sqs.create_queue(QueueName="notices")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        allow = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        sqs.set_queue_attributes(QueueUrl=self._queue, Attributes={"Policy": policy})
        sns.subscribe(TopicArn=self.stage.output("TopicArn"), Protocol="sqs", Endpoint=arn)

    def received(self) -> str:
        found = self.cloud.client("sqs").receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
        return "\n".join(message["Body"] for message in found.get("Messages", ()))

    def _forget_translations(self) -> None:
        dynamodb, table = self.cloud.client("dynamodb"), self.stage.output("TranslationMemoryTable")
        for item in dynamodb.scan(TableName=table, ProjectionExpression="id").get("Items", ()):
            dynamodb.delete_item(TableName=table, Key={"id": item["id"]})

    def begin(self) -> None:
        """Forget what the logs say so far."""
        self._log_start, self._begun = self.cloud.log.stat().st_size, int(time.time() * 1000)

    def log(self) -> str:
        """The local cloud's log and the rerank function's, from `begin` on."""
        with self.cloud.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace")
        logs = self.cloud.client("logs")
        for group in logs.describe_log_groups()["logGroups"]:
            if "Rerank" in group["logGroupName"]:
                found = logs.filter_log_events(logGroupName=group["logGroupName"], startTime=self._begun)
                lines += "\n".join(event["message"] for event in found["events"])
        return lines


_GOLDEN = {"query": "질문", "documents": ["답", "다른 글"]}


def _records() -> bytes:
    with gzip.open(paths.SAMPLE, "rb") as lines:
        return b"".join(line for line, _ in zip(lines, range(_RECORDS), strict=False))
