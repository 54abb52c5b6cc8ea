"""Processing jobs: inputs to folders, a command of the image, folders to outputs."""

from __future__ import annotations

from typing import Any

from local_cloud.sagemaker import transfer
from local_cloud.sagemaker.context import now
from local_cloud.sagemaker.errors import JobError, invalid
from local_cloud.sagemaker.job_operations import CLOUD_STOPPED, JobOperations
from local_cloud.sagemaker.jobs import Cluster, Control, Outcome, failure_reason, reason_of
from local_cloud.sagemaker.processes import loopback_interface, resolve_entrypoint
from local_cloud.sagemaker.store import Record, shown

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
_EXIT_MESSAGE_CHARACTERS = 1024


class ProcessingJobs(JobOperations):
    """The processing operations."""

    kind = "Processing"
    listed = ("FailureReason", "ExitMessage")
    not_found = "Could not find requested job with name: {name}"
    name_taken = "Job name must be unique within an AWS account and region, and a job with this name already exists ({arn})"

    def _check(self, request: dict[str, Any]) -> None:
        _check_supported(request)
        self._context.image(request["AppSpecification"]["ImageUri"])
        self._context.check_role(request["RoleArn"])
        self._context.check_output_key(request["RoleArn"], request.get("ProcessingOutputConfig", {}).get("KmsKeyId"))

    def _fail(self, job: Record, reason: str) -> None:
        self._end(job, "Failed", reason, None)

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
            count, kind = resources["InstanceCount"], resources["InstanceType"]
            cluster = Cluster(self._context, "processing", name, job["RoleArn"], count, LOG_GROUP, control, kind)
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
                status, reason = "Failed", CLOUD_STOPPED
            with self._context.store.change():
                self._end(job, status, reason, message)
            self._leave(job)

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
        folders = [host.path(source["LocalPath"]) for host in cluster.hosts]
        transfer.download_to_hosts(cluster.s3, source["S3Uri"], folders, keys, source.get("S3DataDistributionType"))


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
