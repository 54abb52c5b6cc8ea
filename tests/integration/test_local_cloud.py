"""The local cloud as its users see it: a server process, S3 with IAM, SageMaker jobs and endpoints, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_cloud.cloud import LocalCloud, LocalCloudError
from local_cloud.settings import Image
from local_cloud.snapshots import QUIET_SECONDS

IMAGE = "local/test-image:latest"
IMAGES = {"local/test-image": Image((sys.executable, str(Path(__file__).with_name("local_cloud_image.py"))))}
BUCKET = "jobs-bucket"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll until ``condition`` is true and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
    return value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    root = tmp_path_factory.mktemp("cloud")
    with LocalCloud(root, port=free_port(), gateway_port=free_port(), images=IMAGES) as running:
        prepare(running)
        yield running


def prepare(cloud: LocalCloud) -> None:
    """A bucket that refuses plain HTTP, a data set, and a role that may use the bucket's `mine/` prefix only."""
    s3, iam = cloud.client("s3"), cloud.client("iam")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "ap-northeast-2"})
    tls_only = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policy = {"Version": "2012-10-17", "Statement": [tls_only]}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    for name in ("a", "b"):
        s3.put_object(Bucket=BUCKET, Key=f"mine/data/{name}.jsonl", Body=name.encode())
    s3.put_object(Bucket=BUCKET, Key="other/secret", Body=b"secret")
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": ["sagemaker.amazonaws.com", "states.amazonaws.com"]},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    iam.create_role(RoleName="job-role", AssumeRolePolicyDocument=json.dumps(trust))
    allow = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject"],
                "Resource": f"arn:aws:s3:::{BUCKET}/mine/*",
            },
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"},
            {"Effect": "Allow", "Action": "logs:*", "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "cloudwatch:DescribeAlarms",
                "Resource": "arn:aws:cloudwatch:ap-northeast-2:000000000000:alarm:watched-*",
            },
        ],
    }
    iam.put_role_policy(RoleName="job-role", PolicyName="p", PolicyDocument=json.dumps(allow))


ROLE = "arn:aws:iam::000000000000:role/job-role"


def training_request(name: str, **changes: Any) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/mine/data/"}
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "loss", "Regex": r"loss=([0-9.]+)"}],
        },
        "RoleArn": ROLE,
        "InputDataConfig": [{"ChannelName": "dataset", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/mine/models/r1", "CompressionType": "NONE"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **changes,
    }


def train(cloud: LocalCloud, name: str, **changes: Any) -> dict[str, Any]:
    """Run a training job to its end and return its description."""
    sagemaker = cloud.client("sagemaker")
    sagemaker.create_training_job(**training_request(name, **changes))
    return ended(lambda: sagemaker.describe_training_job(TrainingJobName=name), "TrainingJobStatus")


def ended(describe: Callable[[], dict[str, Any]], status: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        job = describe()
        return job if job[status] in ("Completed", "Failed", "Stopped") else None

    return eventually(over)


def read_json(cloud: LocalCloud, uri: str) -> Any:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return json.loads(cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())


def deploy_model(cloud: LocalCloud, reply: str) -> str:
    """Train a model that answers ``reply`` and make an endpoint configuration of it; return the name of both."""
    sagemaker = cloud.client("sagemaker")
    job = train(cloud, f"job-{reply}", HyperParameters={"reply": reply})
    data = {
        "S3Uri": f"{job['ModelArtifacts']['S3ModelArtifacts']}/",  # the answer comes without the slash that a prefix needs
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    container = {"Image": IMAGE, "ModelDataSource": {"S3DataSource": data}}
    sagemaker.create_model(ModelName=reply, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "main", "ModelName": reply, "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=reply, ProductionVariants=[variant])
    return reply


def settled(cloud: LocalCloud, name: str) -> dict[str, Any]:
    """Wait until the endpoint no longer changes."""
    sagemaker = cloud.client("sagemaker")

    def over() -> dict[str, Any] | None:
        endpoint = sagemaker.describe_endpoint(EndpointName=name)
        return None if endpoint["EndpointStatus"] in ("Creating", "Updating", "RollingBack") else endpoint

    return eventually(over)


def ask(cloud: LocalCloud, name: str, body: bytes = b"hi") -> dict[str, Any]:
    answer = cloud.client("sagemaker-runtime").invoke_endpoint(EndpointName=name, Body=body, ContentType="application/json")
    return json.loads(answer["Body"].read())


# ------------------------------------------------------------------------------------------------ server


def test_a_second_cloud_in_the_same_folder_uses_the_running_server(cloud: LocalCloud) -> None:
    other = LocalCloud(cloud.settings.root, cloud.settings.port, cloud.settings.gateway_port)
    other.start()
    with pytest.raises(LocalCloudError, match="has not started a server"):
        other.wait()
    assert other.client("sts").get_caller_identity()["Account"] == "000000000000"


def test_a_taken_port_is_refused_with_its_number_and_the_option(cloud: LocalCloud, tmp_path: Path) -> None:
    other = LocalCloud(tmp_path, port=free_port(), gateway_port=cloud.settings.gateway_port)
    with pytest.raises(LocalCloudError, match=rf"port {cloud.settings.gateway_port} .* choose another with --gateway-port"):
        other.start()


def test_the_gateway_says_what_to_do_when_nothing_is_deployed(cloud: LocalCloud) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cloud.settings.gateway_url}/v2/rerank", data=b"{}")
    assert caught.value.code == 503
    assert "ko-reranker local deploy" in json.loads(caught.value.read())["message"]


def test_the_server_listens_on_loopback_only(cloud: LocalCloud) -> None:
    listing = Path("/proc/net/tcp")
    if not listing.exists():
        pytest.skip("needs /proc")
    ports = {f"{port:04X}" for port in (cloud.settings.port, cloud.settings.gateway_port)}
    addresses = {
        line.split()[1].split(":")[0]
        for line in listing.read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].split(":")[1] in ports
    }
    assert addresses == {"0100007F"}


def test_the_command_line_starts_shows_and_stops_it(tmp_path: Path) -> None:
    port, gateway_port = str(free_port()), str(free_port())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "ko-reranker"), "local", *arguments, "--root", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert "The local cloud is up." in run("up", "--port", port, "--gateway-port", gateway_port).stdout
    try:
        assert "already running" in run("up", "--port", port, "--gateway-port", gateway_port).stdout
        assert f"https://127.0.0.1:{port}" in run("status").stdout
        assert f"export AWS_ENDPOINT_URL=https://127.0.0.1:{port}" in run("env").stdout
    finally:
        assert "its state is kept" in run("down").stdout
    stopped = run("status")
    assert stopped.returncode == 1
    assert "start it with `ko-reranker local up`" in stopped.stderr


# ------------------------------------------------------------------------------------------------ training


def test_a_training_job_reads_its_channel_and_leaves_an_uncompressed_model(cloud: LocalCloud) -> None:
    job = train(cloud, "plain")
    assert job["TrainingJobStatus"] == "Completed"
    artifact = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifact == f"s3://{BUCKET}/mine/models/r1/plain/output/model"
    assert read_json(cloud, artifact + "/model.json")["seen"] == ["a.jsonl", "b.jsonl"]
    assert job["FinalMetricDataList"][0]["Value"] == pytest.approx(1 / 3, abs=1e-3)
    assert [t["Status"] for t in job["SecondaryStatusTransitions"]] == [
        "Starting", "Downloading", "Training", "Uploading", "Completed",
    ]  # fmt: skip


def test_two_hosts_share_one_rendezvous(cloud: LocalCloud) -> None:
    resources = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 10}
    job = train(cloud, "two-hosts", ResourceConfig=resources)
    report = read_json(cloud, job["ModelArtifacts"]["S3ModelArtifacts"] + "/model.json")
    assert report["hosts"] == ["algo-1", "algo-2"]
    assert report["master"][0] == "127.0.0.1"
    assert int(report["master"][1]) > 0


def test_a_compressed_model_is_one_archive(cloud: LocalCloud) -> None:
    job = train(cloud, "packed", OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/mine/models/r2"})
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/mine/models/r2/packed/output/model.tar.gz"


def test_a_later_job_finds_the_checkpoints_of_an_earlier_one(cloud: LocalCloud) -> None:
    checkpoints = {"S3Uri": f"s3://{BUCKET}/mine/checkpoints/r3"}
    train(cloud, "first-attempt", CheckpointConfig=checkpoints)
    job = train(cloud, "second-attempt", CheckpointConfig=checkpoints)
    report = read_json(cloud, job["ModelArtifacts"]["S3ModelArtifacts"] + "/model.json")
    assert report["resumed"] == ["step-0"]


def test_an_interrupted_spot_job_goes_on_from_its_checkpoints_on_other_instances(cloud: LocalCloud) -> None:
    sagemaker, name = cloud.client("sagemaker"), "spot"
    request = training_request(
        name,
        HyperParameters={"first_step_seconds": "30"},
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/mine/checkpoints/spot"},
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
    )
    sagemaker.create_training_job(**request)
    checkpoint = cloud.settings.home / "sagemaker/training/spot/algo-1/checkpoints/step-0"
    eventually(checkpoint.exists)
    cloud.interrupt(name)
    job = ended(lambda: sagemaker.describe_training_job(TrainingJobName=name), "TrainingJobStatus")
    assert job["TrainingJobStatus"] == "Completed"
    assert read_json(cloud, job["ModelArtifacts"]["S3ModelArtifacts"] + "/model.json")["resumed"] == ["step-0"]
    assert [t["Status"] for t in job["SecondaryStatusTransitions"]] == [
        "Starting", "Downloading", "Training", "Interrupted", "Starting", "Downloading", "Training", "Uploading", "Completed",
    ]  # fmt: skip


def test_only_a_spot_job_that_trains_is_interrupted(cloud: LocalCloud) -> None:
    train(cloud, "on-demand")
    with pytest.raises(LocalCloudError, match="no spot instances"):
        cloud.interrupt("on-demand")
    with pytest.raises(LocalCloudError, match="not found"):
        cloud.interrupt("nobody")


def test_a_failed_job_tells_its_own_sentence(cloud: LocalCloud) -> None:
    job = train(cloud, "failing", HyperParameters={"fail": "The data set has no records."})
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: The data set has no records., exit code: 1"


def test_a_job_may_only_do_what_its_role_may(cloud: LocalCloud) -> None:
    job = train(cloud, "curious", HyperParameters={"try_to_read": f"{BUCKET}/other/secret"})
    assert "AccessDenied" in job["FailureReason"]


def test_data_that_the_role_may_not_read_fails_the_job(cloud: LocalCloud) -> None:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/other/"}
    job = train(cloud, "forbidden", InputDataConfig=[{"ChannelName": "dataset", "DataSource": {"S3DataSource": source}}])
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Data transfer failed")
    assert "403" in job["FailureReason"] or "AccessDenied" in job["FailureReason"]


def test_log_lines_arrive_while_the_job_runs(cloud: LocalCloud) -> None:
    sagemaker, logs = cloud.client("sagemaker"), cloud.client("logs")
    sagemaker.create_training_job(**training_request("slow", HyperParameters={"step_seconds": "20"}))

    group = {"logGroupName": "/aws/sagemaker/TrainingJobs"}

    def first_line() -> bool:
        try:
            streams = logs.describe_log_streams(**group, logStreamNamePrefix="slow/algo-1")["logStreams"]
            events = logs.get_log_events(**group, logStreamName=streams[0]["logStreamName"])["events"]
        except (ClientError, IndexError):
            return False
        return [e["message"] for e in events] == ["step=1/3 loss=1.0000"]

    eventually(first_line)
    assert sagemaker.describe_training_job(TrainingJobName="slow")["TrainingJobStatus"] == "InProgress"
    sagemaker.stop_training_job(TrainingJobName="slow")
    job = ended(lambda: sagemaker.describe_training_job(TrainingJobName="slow"), "TrainingJobStatus")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")


def test_a_stopped_job_leaves_no_process_behind(cloud: LocalCloud, tmp_path: Path) -> None:
    sagemaker, pid_file = cloud.client("sagemaker"), tmp_path / "pid"
    request = training_request("with-worker", HyperParameters={"child": str(pid_file)})
    sagemaker.create_training_job(**request)
    eventually(pid_file.exists)
    worker = int(eventually(pid_file.read_text))
    sagemaker.stop_training_job(TrainingJobName="with-worker")
    ended(lambda: sagemaker.describe_training_job(TrainingJobName="with-worker"), "TrainingJobStatus")
    assert not alive(worker)


def test_a_job_over_its_time_is_stopped(cloud: LocalCloud) -> None:
    job = train(cloud, "late", HyperParameters={"step_seconds": "5"}, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RoleArn": "arn:aws:iam::000000000000:role/nobody"}, "Could not assume role"),
        ({"TrainingJobName": "-bad-"}, "Member must satisfy regular expression pattern"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
    ],
)
def test_a_request_that_aws_refuses_is_refused(cloud: LocalCloud, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        cloud.client("sagemaker").create_training_job(**training_request("refused", **changes))
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_name_is_used_once(cloud: LocalCloud) -> None:
    train(cloud, "unique")
    with pytest.raises(ClientError) as caught:
        cloud.client("sagemaker").create_training_job(**training_request("unique"))
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"


# ------------------------------------------------------------------------------------------------ processing


def process(cloud: LocalCloud, name: str, environment: dict[str, str]) -> dict[str, Any]:
    sagemaker = cloud.client("sagemaker")
    source = {
        "S3Uri": f"s3://{BUCKET}/mine/data",
        "LocalPath": "/opt/ml/processing/input",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
    }
    target = {
        "S3Uri": f"s3://{BUCKET}/mine/{name}",
        "LocalPath": "/opt/ml/processing/output",
        "S3UploadMode": "EndOfJob",
    }
    sagemaker.create_processing_job(
        ProcessingJobName=name,
        RoleArn=ROLE,
        AppSpecification={
            "ImageUri": IMAGE,
            "ContainerEntrypoint": [Path(sys.executable).name, "copy"],
            "ContainerArguments": ["/opt/ml/processing/output"],
        },
        Environment=environment,
        ProcessingInputs=[{"InputName": "in", "S3Input": source}],
        ProcessingOutputConfig={"Outputs": [{"OutputName": "out", "S3Output": target}]},
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}},
    )
    return ended(lambda: sagemaker.describe_processing_job(ProcessingJobName=name), "ProcessingJobStatus")


def test_a_processing_job_turns_inputs_into_outputs(cloud: LocalCloud) -> None:
    job = process(cloud, "copy-it", {})
    assert job["ProcessingJobStatus"] == "Completed"
    body = cloud.client("s3").get_object(Bucket=BUCKET, Key="mine/copy-it/a.jsonl")["Body"].read()
    assert body == b"A"


def test_a_failed_processing_job_tells_its_own_sentence(cloud: LocalCloud) -> None:
    job = process(cloud, "copy-badly", {"FAIL": "No dev split."})
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["ExitMessage"] == "No dev split."
    assert "No dev split." in job["FailureReason"]


# ------------------------------------------------------------------------------------------------ endpoints


def test_an_endpoint_rolls_over_keeps_serving_and_survives_a_bad_model(cloud: LocalCloud) -> None:
    sagemaker = cloud.client("sagemaker")
    for reply in ("one", "two", "broken"):
        deploy_model(cloud, reply)
    sagemaker.create_endpoint(EndpointName="ko", EndpointConfigName="one")
    assert settled(cloud, "ko")["EndpointStatus"] == "InService"
    assert ask(cloud, "ko") == {"reply": "one", "body": "hi"}

    sagemaker.update_endpoint(EndpointName="ko", EndpointConfigName="two", RetainAllVariantProperties=True)
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        sagemaker.update_endpoint(EndpointName="ko", EndpointConfigName="two")
    endpoint = settled(cloud, "ko")
    assert (endpoint["EndpointConfigName"], ask(cloud, "ko")["reply"]) == ("two", "two")

    sagemaker.update_endpoint(EndpointName="ko", EndpointConfigName="broken")
    endpoint = settled(cloud, "ko")
    assert (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]) == ("InService", "two")
    assert "did not pass the ping health check" in endpoint["FailureReason"]
    assert ask(cloud, "ko")["reply"] == "two"


def test_an_error_of_the_model_is_a_model_error(cloud: LocalCloud) -> None:
    deploy_model(cloud, "erring")
    cloud.client("sagemaker").create_endpoint(EndpointName="erring", EndpointConfigName="erring")
    settled(cloud, "erring")
    with pytest.raises(ClientError) as caught:
        ask(cloud, "erring", b"fail")
    response = caught.value.response
    assert response["Error"]["Code"] == "ModelError"
    assert (response["OriginalStatusCode"], response["OriginalMessage"]) == (422, "bad input")

    with pytest.raises(ClientError):
        ask(cloud, "erring", b"die")
    assert eventually(lambda: _answers(cloud, "erring"))["reply"] == "erring"  # its process was replaced

    cloud.client("sagemaker").delete_endpoint(EndpointName="erring")
    with pytest.raises(ClientError, match=r"Endpoint erring of account 000000000000 not found\.") as caught:
        eventually(lambda: _answers(cloud, "erring", reraise=True) and False)  # until it raises; its process may go first
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def _answers(cloud: LocalCloud, name: str, reraise: bool = False) -> dict[str, Any] | None:
    try:
        return ask(cloud, name)
    except ClientError as error:
        if reraise and error.response["Error"]["Code"] == "ValidationError":
            raise
        return None


def test_an_alarm_during_a_canary_brings_the_old_model_back(cloud: LocalCloud) -> None:
    sagemaker, cloudwatch = cloud.client("sagemaker"), cloud.client("cloudwatch")
    for name in ("calm", "noisy"):
        deploy_model(cloud, name)
        variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.g5.xlarge", "InitialInstanceCount": 2}
        sagemaker.create_endpoint_config(EndpointConfigName=f"two-{name}", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="watched", EndpointConfigName="two-calm")
    assert settled(cloud, "watched")["EndpointStatus"] == "InService"
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocation5XXErrors", "Statistic": "Sum", "Period": 60}
    bounds = {"Threshold": 3, "ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1}
    cloudwatch.put_metric_alarm(AlarmName="watched-errors", TreatMissingData="notBreaching", **metric, **bounds)
    canary = {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 60}
    sagemaker.update_endpoint(
        EndpointName="watched",
        EndpointConfigName="two-noisy",
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": canary},
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "watched-errors"}]},
        },
    )
    eventually(lambda: ask(cloud, "watched")["reply"] == "noisy")  # the canary's share of the traffic
    with pytest.raises(ClientError, match=r'ValidationException.*Cannot delete in-progress endpoint "arn:.*:endpoint/watched"'):
        sagemaker.delete_endpoint(EndpointName="watched")
    with pytest.raises(ClientError, match=r'ValidationException.*Cannot create already existing endpoint "arn:.*/watched"'):
        sagemaker.create_endpoint(EndpointName="watched", EndpointConfigName="two-calm")
    cloudwatch.set_alarm_state(AlarmName="watched-errors", StateValue="ALARM", StateReason="test")
    endpoint = settled(cloud, "watched")
    assert (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]) == ("InService", "two-calm")
    assert "watched-errors" in endpoint["FailureReason"]
    assert {ask(cloud, "watched")["reply"] for _ in range(10)} == {"calm"}

    # Autoscaling's target goes with its endpoint, and none can be registered for one that isn't there.
    scaling = cloud.client("application-autoscaling")
    variant = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/watched/variant/main",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**variant, MinCapacity=2, MaxCapacity=4)
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    sagemaker.delete_endpoint(EndpointName="watched")
    assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    with pytest.raises(ClientError, match=r"ObjectNotFoundException.*No scalable target registered"):
        scaling.deregister_scalable_target(**variant)
    eventually(lambda: "watched" not in str(sagemaker.list_endpoints(MaxResults=100)["Endpoints"]))
    with pytest.raises(ClientError, match="Could not find endpoint"):
        scaling.register_scalable_target(**variant, MinCapacity=2, MaxCapacity=4)


def test_an_endpoint_whose_first_model_is_bad_fails(cloud: LocalCloud) -> None:
    sagemaker = cloud.client("sagemaker")
    if not any(m["ModelName"] == "broken" for m in sagemaker.list_models(MaxResults=100)["Models"]):
        deploy_model(cloud, "broken")
    sagemaker.create_endpoint(EndpointName="stillborn", EndpointConfigName="broken")
    assert settled(cloud, "stillborn")["EndpointStatus"] == "Failed"
    sagemaker.delete_endpoint(EndpointName="stillborn")


# ------------------------------------------------------------------------------------------------ registry


def test_an_approved_package_is_told_to_eventbridge(cloud: LocalCloud) -> None:
    sagemaker, events, sqs = cloud.client("sagemaker"), cloud.client("events"), cloud.client("sqs")
    queue = sqs.create_queue(QueueName="approvals")["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**allow, "Resource": queue_arn}]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    pattern = {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Model Package State Change"],
        "detail": {"ModelPackageGroupName": ["group"], "ModelApprovalStatus": ["Approved"]},
    }
    events.put_rule(Name="approved", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="approved", Targets=[{"Id": "queue", "Arn": queue_arn}])

    sagemaker.create_model_package_group(ModelPackageGroupName="group")
    inference = {"Containers": [{"Image": IMAGE}], "SupportedContentTypes": [], "SupportedResponseMIMETypes": []}
    arn = sagemaker.create_model_package(ModelPackageGroupName="group", InferenceSpecification=inference)["ModelPackageArn"]
    assert arn.endswith(":model-package/group/1")
    sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")

    messages = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages", [])
    assert [json.loads(m["Body"])["detail"]["ModelPackageArn"] for m in messages] == [arn]
    listed = sagemaker.list_model_packages(ModelPackageGroupName="group", ModelApprovalStatus="Approved")
    assert [p["ModelPackageVersion"] for p in listed["ModelPackageSummaryList"]] == [1]


# ------------------------------------------------------------------------------------------------ restarts


def test_a_restart_keeps_everything_and_brings_the_endpoint_back(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path, port=free_port(), gateway_port=free_port(), images=IMAGES)
    cloud.start()
    prepare(cloud)
    deploy_model(cloud, "kept")
    cloud.client("sagemaker").create_endpoint(EndpointName="ko", EndpointConfigName="kept")
    settled(cloud, "ko")
    cloud.client("ssm").put_parameter(Name="/live", Value="kept", Type="String")
    definition = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
    machine = {"name": "m", "definition": json.dumps(definition), "roleArn": ROLE}
    machine_arn = cloud.client("stepfunctions").create_state_machine(**machine)["stateMachineArn"]
    server = cloud.pid
    assert server is not None
    os.kill(server, signal.SIGTERM)
    eventually(lambda: not cloud.running())

    cloud.start()  # while the old server may still be ending its processes
    try:
        assert settled(cloud, "ko")["EndpointStatus"] == "InService"
        assert ask(cloud, "ko")["reply"] == "kept"
        assert cloud.client("ssm").get_parameter(Name="/live")["Parameter"]["Value"] == "kept"
        machines = cloud.client("stepfunctions").list_state_machines()["stateMachines"]
        assert [m["stateMachineArn"] for m in machines] == [machine_arn]
        assert train(cloud, "after", HyperParameters={"reply": "x"})["TrainingJobStatus"] == "Completed"
        assert cloud.client("s3").head_object(Bucket=BUCKET, Key="mine/data/a.jsonl")["ContentLength"] == 1
    finally:
        cloud.stop()


def test_the_server_and_its_processes_end_with_the_program_that_started_it(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path, port=free_port(), gateway_port=free_port(), images=IMAGES)
    program = (
        "import sys, time; from pathlib import Path; from local_cloud.cloud import LocalCloud; "
        f"LocalCloud(Path(sys.argv[1]), {cloud.settings.port}, {cloud.settings.gateway_port}).start(); "
        "print('up', flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    assert cloud.running()
    starter.kill()
    starter.wait()
    starter.stdout.close()
    assert eventually(lambda: cloud.pid is None)


def test_a_crash_takes_the_processes_along_and_loses_little(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path, port=free_port(), gateway_port=free_port(), images=IMAGES, snapshot_seconds=0.5)
    cloud.start()
    prepare(cloud)
    deploy_model(cloud, "kept")
    cloud.client("sagemaker").create_endpoint(EndpointName="ko", EndpointConfigName="kept")
    settled(cloud, "ko")
    server = cloud.pid
    assert server is not None
    serving = descendants(server)
    assert len(serving) >= 2, "the endpoint's process and its supervisor"
    time.sleep(1.5 * QUIET_SECONDS + 0.5)  # a snapshot is written in a pause
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in serving))

    cloud.start()
    try:
        assert settled(cloud, "ko")["EndpointStatus"] == "InService"
        assert ask(cloud, "ko")["reply"] == "kept"
    finally:
        cloud.stop()


def descendants(pid: int) -> list[int]:
    """Process ids of the processes below ``pid``."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
    found = [pid]
    for parent in found:
        found.extend(child for child, above in pairs if above == parent)
    return found[1:]
