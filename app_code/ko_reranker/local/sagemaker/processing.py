"""Processing jobs: inputs to folders, a command of the image, folders to outputs."""

from __future__ import annotations

from typing import Any

from ko_reranker.local.sagemaker import transfer
from ko_reranker.local.sagemaker.context import Context, in_thread, now
from ko_reranker.local.sagemaker.errors import ApiError, JobError, invalid
from ko_reranker.local.sagemaker.jobs import Cluster, Control, Outcome, failure_reason, reason_of
from ko_reranker.local.sagemaker.processes import loopback_interface, resolve_entrypoint
from ko_reranker.local.sagemaker.store import Record, shown

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
_ENDED = ("Completed", "Failed", "Stopped")
_EXIT_MESSAGE_CHARACTERS = 1024


class ProcessingJobs:
    """The processing operations."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._jobs = context.store.all("processing_jobs")
        self._running: dict[str, Control] = {}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["ProcessingJobName"]
        arn = self._context.arn("processing-job", name)
        _check_supported(request)
        self._context.image(request["AppSpecification"]["ImageUri"])
        self._context.check_role(request["RoleArn"])
        job = {
            **request,
            "ProcessingJobArn": arn,
            "ProcessingJobStatus": "InProgress",
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        with self._context.store.change():
            if name in self._jobs:
                raise ApiError(
                    "ResourceInUse",
                    "Job name must be unique within an AWS account and region, and a job with this name already exists "
                    f"({arn})",
                )
            self._jobs[name], self._running[name] = job, Control()
        in_thread(f"processing {name}", self._run, job, self._running[name])
        return {"ProcessingJobArn": arn}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        return shown(self._get(request["ProcessingJobName"]))

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["ProcessingJobName"]
        job = self._get(name)
        if job["ProcessingJobStatus"] in _ENDED:
            raise invalid(f"The request was rejected because the processing job is in status {job['ProcessingJobStatus']}.")
        with self._context.store.change():
            job.update(ProcessingJobStatus="Stopping", LastModifiedTime=now())
        if name in self._running:
            self._running[name].stop.set()
        return {}

    def summaries(self) -> list[Record]:
        names = ("ProcessingJobName", "ProcessingJobArn", "CreationTime", "ProcessingEndTime", "LastModifiedTime")
        names += ("ProcessingJobStatus", "FailureReason", "ExitMessage")
        return [{n: job[n] for n in names if n in job} for job in self._jobs.values()]

    def mark_interrupted(self) -> None:
        """Fail what was running when the server ended."""
        with self._context.store.change():
            for job in self._jobs.values():
                if job["ProcessingJobStatus"] not in _ENDED:
                    self._end(job, "Failed", "InternalServerError: the local cloud was stopped meanwhile", None)

    def shutdown(self) -> None:
        for control in list(self._running.values()):
            control.abort()

    @property
    def running(self) -> int:
        return len(self._running)

    def _get(self, name: str) -> Record:
        if name not in self._jobs:
            raise invalid("Could not find requested job with name: " + name)
        return self._jobs[name]

    def _end(self, job: Record, status: str, reason: str | None, message: str | None) -> None:
        job.update(ProcessingJobStatus=status, ProcessingEndTime=now(), LastModifiedTime=now())
        if reason:
            job["FailureReason"] = reason
        if message:
            job["ExitMessage"] = message[:_EXIT_MESSAGE_CHARACTERS]

    def _run(self, job: Record, control: Control) -> None:
        name = job["ProcessingJobName"]
        resources = job["ProcessingResources"]["ClusterConfig"]
        cluster: Cluster | None = None
        status, reason, message = "Failed", None, None
        try:
            cluster = Cluster(self._context, "processing", name, job["RoleArn"], resources["InstanceCount"], LOG_GROUP, control)
            _prepare(job, cluster)
            with self._context.store.change():
                job["ProcessingStartTime"] = now()
            self._start(job, cluster)
            limit = job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86400)
            outcome = cluster.wait(limit)
            status, reason, message = _verdict(outcome, cluster)
            # SageMaker uploads what a failed job has written, too: that is often where the explanation is.
            if not control.shutdown.is_set():
                _upload(job, cluster)
        except Exception as error:
            status, reason = "Failed", reason or reason_of(error)
        finally:
            if cluster is not None:
                cluster.close()
            if control.shutdown.is_set():
                status, reason = "Failed", "InternalServerError: the local cloud was stopped meanwhile"
            with self._context.store.change():
                self._end(job, status, reason, message)
            self._running.pop(name, None)
            detail = {n: job[n] for n in ("ProcessingJobName", "ProcessingJobArn", "ProcessingJobStatus")}
            self._context.emit("SageMaker Processing Job State Change", job["ProcessingJobArn"], detail)

    def _start(self, job: Record, cluster: Cluster) -> None:
        application = job["AppSpecification"]
        image = self._context.image(application["ImageUri"])
        entrypoint = application.get("ContainerEntrypoint")
        argv = resolve_entrypoint(entrypoint, image) if entrypoint else list(image.command)
        argv += application.get("ContainerArguments", [])
        variables = {"PROCESSING_JOB_NAME": job["ProcessingJobName"], **job.get("Environment", {})}
        cluster.start(argv, image, variables)


def _check_supported(request: dict[str, Any]) -> None:
    for given in request.get("ProcessingInputs", []):
        source = given.get("S3Input")
        if source is None or source.get("S3DataType") != "S3Prefix" or source.get("S3InputMode", "File") != "File":
            raise invalid(
                f"The local cloud reads S3Input of type S3Prefix in File mode only; input '{given['InputName']}' is another."
            )
        if source.get("S3CompressionType", "None") != "None":
            raise invalid(f"The local cloud does not decompress inputs; input '{given['InputName']}' asks for it.")
        if "LocalPath" not in source:
            raise invalid(f"S3Input.LocalPath is required for input '{given['InputName']}'.")
    for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
        if "S3Output" not in output:
            raise invalid(f"The local cloud writes S3Output only; output '{output['OutputName']}' is another.")


def _prepare(job: Record, cluster: Cluster) -> None:
    for host in cluster.hosts:
        host.write_json("/opt/ml/config/processingjobconfig.json", shown(job))
        resources = {"current_host": host.name, "hosts": cluster.host_names, "network_interface_name": loopback_interface()}
        host.write_json("/opt/ml/config/resourceconfig.json", resources)
        (host.base / "output").mkdir()
        for output in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
            host.path(output["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
    for given in job.get("ProcessingInputs", []):
        source = given["S3Input"]
        keys = transfer.list_keys(cluster.s3, source["S3Uri"])
        if not keys:
            raise JobError(
                f"ClientError: Data download failed for input '{given['InputName']}': No S3 objects found under S3 URL "
                f'"{source["S3Uri"]}".'
            )
        sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
        for index, host in enumerate(cluster.hosts):
            mine = keys[index :: len(cluster.hosts)] if sharded else keys
            transfer.download(cluster.s3, source["S3Uri"], host.path(source["LocalPath"]), mine)


def _upload(job: Record, cluster: Cluster) -> None:
    config = job.get("ProcessingOutputConfig", {})
    for output in config.get("Outputs", []):
        target = output["S3Output"]
        files = transfer.merged(host.path(target["LocalPath"]) for host in cluster.hosts)
        transfer.upload_files(cluster.s3, files, target["S3Uri"], config.get("KmsKeyId"))


def _verdict(outcome: Outcome, cluster: Cluster) -> tuple[str, str | None, str | None]:
    """Status, failure reason and exit message of a job whose processes have ended."""
    message = next((text for host in cluster.hosts if (text := host.read_text("/opt/ml/output/message"))), None)
    if outcome.stopped == "Stopped":
        return "Stopped", None, message
    if outcome.stopped:
        return "Failed", "ClientError: The processing job ran longer than its MaxRuntimeInSeconds.", message
    if outcome.failed:
        host, status = outcome.failed
        sentence = message or host.read_text("/opt/ml/output/failure") or "See job logs for more information"
        return "Failed", failure_reason("AlgorithmError", sentence, status), message
    return "Completed", None, message
