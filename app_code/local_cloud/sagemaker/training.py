"""Training jobs: channels in, the image's ``train`` on every host, model and checkpoints out."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path
from typing import Any

from local_cloud.sagemaker import transfer
from local_cloud.sagemaker.context import now
from local_cloud.sagemaker.errors import JobError, invalid
from local_cloud.sagemaker.job_operations import CLOUD_STOPPED, JobOperations
from local_cloud.sagemaker.jobs import Cluster, Control, Host, Outcome, failure_reason, reason_of
from local_cloud.sagemaker.processes import loopback_interface, resolve_entrypoint
from local_cloud.sagemaker.store import Record

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
DEFAULT_CHECKPOINT_PATH = "/opt/ml/checkpoints"
CHECKPOINT_SECONDS = 10.0
# In a spot job's folder: take its instances away.
INTERRUPT_FILE = "interrupt"


class TrainingJobs(JobOperations):
    """The training operations."""

    kind = "Training"
    listed = announced = ("SecondaryStatus",)
    not_found = "Requested resource not found."
    name_taken = (
        "Training job names must be unique within an AWS account and region, and a training job with this name already exists "
        "({arn})"
    )

    def _check(self, request: dict[str, Any]) -> None:
        _check_supported(request)
        self._context.image(request["AlgorithmSpecification"]["TrainingImage"])
        self._context.check_role(request["RoleArn"])
        self._context.check_output_key(request["RoleArn"], request["OutputDataConfig"].get("KmsKeyId"))

    def _fail(self, job: Record, reason: str) -> None:
        self._end(job, "Failed", "Failed", reason)

    def _enter(self, job: Record, status: str, message: str) -> None:
        """Note a secondary status; call it inside a change."""
        transitions, moment = job.setdefault("SecondaryStatusTransitions", []), now()
        if transitions:
            transitions[-1]["EndTime"] = moment
        transitions.append({"Status": status, "StartTime": moment, "StatusMessage": message})
        job.update(SecondaryStatus=status, LastModifiedTime=moment)

    def _note(self, job: Record, status: str, message: str) -> None:
        with self._context.store.change():
            self._enter(job, status, message)

    def _end(self, job: Record, status: str, secondary: str, reason: str | None) -> None:
        self._enter(job, secondary, reason or "")
        job["SecondaryStatusTransitions"][-1]["EndTime"] = now()
        job["TrainingJobStatus"] = status
        if reason:
            job["FailureReason"] = reason
        if "TrainingStartTime" in job:
            job.setdefault("TrainingEndTime", now())
            job["TrainingTimeInSeconds"] = round(job["TrainingEndTime"] - job["TrainingStartTime"])
            job["BillableTimeInSeconds"] = job["TrainingTimeInSeconds"]

    def _run(self, job: Record, control: Control) -> None:
        cluster: Cluster | None = None
        status, secondary, reason = "Failed", "Failed", None
        try:
            cluster, outcome = self._attempt(job, control)
            while outcome.interrupted:
                cluster.close()
                self._note(job, "Interrupted", "Training job interrupted: its spot instances were taken back")
                self._note(job, "Starting", "Launching requested ML instances")
                cluster, outcome = self._attempt(job, control)
            if not control.shutdown.is_set():
                self._note(job, "Uploading", "Uploading generated training model")
                self._upload(job, cluster, outcome)
            status, secondary, reason = verdict(outcome)
        except Exception as error:
            reason = reason_of(error)
        finally:
            if cluster is not None:
                cluster.close()
            if control.shutdown.is_set():
                status, secondary, reason = "Failed", "Failed", CLOUD_STOPPED
            # Described as ended only once everything of it is gone, so that a follower finds all logs and files.
            with self._context.store.change():
                self._end(job, status, secondary, reason)
            self._leave(job)

    def _attempt(self, job: Record, control: Control) -> tuple[Cluster, Outcome]:
        """Train on fresh instances, from the checkpoints there are."""
        count, kind = job["ResourceConfig"].get("InstanceCount", 1), job["ResourceConfig"]["InstanceType"]
        cluster = Cluster(self._context, "training", job["TrainingJobName"], job["RoleArn"], count, LOG_GROUP, control, kind)
        try:
            self._note(job, "Downloading", "Downloading input data")
            checkpoints = self._prepare(job, cluster)
            return cluster, self._train(job, cluster, checkpoints)
        except Exception:
            cluster.close()
            raise

    def _prepare(self, job: Record, cluster: Cluster) -> list[transfer.FolderSync]:
        resources = job["ResourceConfig"]
        channels = {c["ChannelName"]: _channel_config(job, c) for c in job.get("InputDataConfig", [])}
        hyperparameters = job.get("HyperParameters", {})
        for host in cluster.hosts:
            for folder in ("input/data", "model", "output/data", "code", "checkpoints"):
                (host.base / folder).mkdir(parents=True, exist_ok=True)
            host.write_json("/opt/ml/input/config/hyperparameters.json", hyperparameters)
            host.write_json("/opt/ml/input/config/inputdataconfig.json", channels)
            host.write_json(
                "/opt/ml/input/config/resourceconfig.json",
                _resource_config(host.name, cluster.host_names, resources["InstanceType"]),
            )
        for channel in job.get("InputDataConfig", []):
            _download_channel(channel, cluster)
        return _checkpoint_syncs(job, cluster)

    def _train(self, job: Record, cluster: Cluster, checkpoints: list[transfer.FolderSync]) -> Outcome:
        image = self._context.image(job["AlgorithmSpecification"]["TrainingImage"])
        specification = job["AlgorithmSpecification"]
        metrics = Metrics(specification.get("MetricDefinitions", []))
        variables = {
            "TRAINING_JOB_NAME": job["TrainingJobName"],
            "TRAINING_JOB_ARN": job["TrainingJobArn"],
            **job.get("Environment", {}),
        }
        entrypoint = specification.get("ContainerEntrypoint")
        argv = resolve_entrypoint(entrypoint, image) if entrypoint else [*image.command, "train"]
        argv += specification.get("ContainerArguments", [])
        with self._context.store.change():
            job.setdefault("TrainingStartTime", now())
            self._enter(job, "Training", "Training image download completed. Training in progress.")
        cluster.start(argv, image, variables, metrics.read)
        last_sync = time.monotonic()

        def meanwhile() -> None:
            nonlocal last_sync
            if time.monotonic() - last_sync > CHECKPOINT_SECONDS:
                for sync in checkpoints:
                    sync.upload()
                last_sync = time.monotonic()

        interrupt = cluster.directory / INTERRUPT_FILE
        left = job["StoppingCondition"].get("MaxRuntimeInSeconds", 86400) - (now() - job["TrainingStartTime"])
        outcome = cluster.wait(left, meanwhile, lambda: job.get("EnableManagedSpotTraining", False) and interrupt.exists())
        for sync in checkpoints:
            sync.upload()
        with self._context.store.change():
            job["TrainingEndTime"] = now()
            job["FinalMetricDataList"] = metrics.final()
        return outcome

    def _upload(self, job: Record, cluster: Cluster, outcome: Outcome) -> None:
        output = job["OutputDataConfig"]
        target = f"{output['S3OutputPath'].rstrip('/')}/{job['TrainingJobName']}/output"
        key, plain = output.get("KmsKeyId"), output.get("CompressionType") == "NONE"
        for folder, archive in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
            files = transfer.merged(host.base / folder for host in cluster.hosts)
            is_model = folder == "model"
            if not files and (plain or not is_model or outcome.failed):
                continue
            if plain:
                # Without a slash at its end, as S3ModelArtifacts may come: whoever makes a prefix of it must add one.
                uri = f"{target}/model" if is_model else f"{target}/data"
                transfer.upload_files(cluster.s3, files, uri, key)
            else:
                uri = f"{target}/{archive}"
                transfer.upload_archive(cluster.s3, files, uri, Path(cluster.directory / archive), key)
            if is_model:
                with self._context.store.change():
                    job["ModelArtifacts"] = {"S3ModelArtifacts": uri}


def _check_supported(request: dict[str, Any]) -> None:
    if "TrainingImage" not in request["AlgorithmSpecification"]:
        raise invalid("The local cloud trains images only: give AlgorithmSpecification.TrainingImage.")
    if "InstanceType" not in request.get("ResourceConfig", {}):
        raise invalid("The local cloud needs ResourceConfig.InstanceType (instance groups are not supported).")
    condition = request["StoppingCondition"]
    longest, wait = condition.get("MaxRuntimeInSeconds", 86400), condition.get("MaxWaitTimeInSeconds")
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < longest:
            raise invalid(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds "
                f"({longest})"
            )
    elif wait is not None:
        raise invalid("MaxWaitTimeInSeconds is supported only if EnableManagedSpotTraining is true")
    for channel in request.get("InputDataConfig", []):
        name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] != "S3Prefix":
            raise invalid(f"The local cloud reads S3DataSource channels of type S3Prefix only; channel '{name}' is another.")
        if channel.get("InputMode", request["AlgorithmSpecification"]["TrainingInputMode"]) == "Pipe":
            raise invalid(f"The local cloud has no Pipe mode; use File or FastFile for channel '{name}'.")
        if channel.get("CompressionType", "None") != "None":
            raise invalid(f"The local cloud does not decompress channels; channel '{name}' asks for it.")


def _channel_config(job: Record, channel: Record) -> Record:
    source = channel["DataSource"]["S3DataSource"]
    config = {
        "TrainingInputMode": channel.get("InputMode") or job["AlgorithmSpecification"]["TrainingInputMode"],
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    return {**config, "ContentType": channel["ContentType"]} if "ContentType" in channel else config


def _resource_config(host: str, hosts: list[str], instance_type: str) -> Record:
    group = "homogeneousCluster"
    return {
        "current_host": host,
        "current_instance_type": instance_type,
        "current_group_name": group,
        "hosts": hosts,
        "instance_groups": [{"instance_group_name": group, "instance_type": instance_type, "hosts": hosts}],
        "network_interface_name": loopback_interface(),
    }


def _download_channel(channel: Record, cluster: Cluster) -> None:
    source = channel["DataSource"]["S3DataSource"]
    uri = source["S3Uri"]
    keys = transfer.list_keys(cluster.s3, uri)
    if not keys:
        raise JobError(
            f'ClientError: Data download failed: No S3 objects found under S3 URL "{uri}" given in input data source. '
            "Please ensure that the bucket exists in the selected region, that objects exist under that S3 prefix, and that "
            "the role has s3:ListBucket permission on the bucket."
        )
    folders = [host.base / "input/data" / channel["ChannelName"] for host in cluster.hosts]
    transfer.download_to_hosts(cluster.s3, uri, folders, keys, source.get("S3DataDistributionType"))


def _checkpoint_syncs(job: Record, cluster: Cluster) -> list[transfer.FolderSync]:
    config = job.get("CheckpointConfig")
    if not config:
        return []
    path = config.get("LocalPath", DEFAULT_CHECKPOINT_PATH)
    syncs = []
    for host in cluster.hosts:
        directory = host.path(path)
        directory.mkdir(parents=True, exist_ok=True)
        syncs.append(transfer.FolderSync(cluster.s3, directory, config["S3Uri"].rstrip("/") + "/"))
        syncs[-1].restore()
    return syncs


def verdict(outcome: Outcome) -> tuple[str, str, str | None]:
    """Status, secondary status and reason of a job whose processes have ended."""
    if outcome.stopped:
        return "Stopped", outcome.stopped, None
    if outcome.failed:
        host, status = outcome.failed
        sentence = host.read_text("/opt/ml/output/failure") or "the command failed without a reason; see the job's logs"
        return "Failed", "Failed", failure_reason("AlgorithmError", sentence, status)
    return "Completed", "Completed", None


class Metrics:
    """The last value of every metric that the job's definitions find in its output."""

    def __init__(self, definitions: list[Record]) -> None:
        self._patterns = {d["Name"]: re.compile(d["Regex"]) for d in definitions}
        self._last: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def read(self, _host: Host, line: str) -> None:
        for name, pattern in self._patterns.items():
            for match in pattern.finditer(line):
                with self._lock, contextlib.suppress(ValueError, IndexError):
                    self._last[name] = (float(match[1]), now())

    def final(self) -> list[Record]:
        with self._lock:
            return [{"MetricName": n, "Value": v, "Timestamp": t} for n, (v, t) in self._last.items()]
