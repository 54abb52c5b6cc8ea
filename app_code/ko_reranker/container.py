"""SageMaker's contract with a container: where things lie under /opt/ml, and how a job says why it failed.

The root folder can be moved by the variable ``SAGEMAKER_BASE_DIR``, so that the very commands of the image run on a laptop.
Standard library only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ko_reranker import disk, languages
from ko_reranker.languages import KOREAN, Language

BASE_DIR_VARIABLE = "SAGEMAKER_BASE_DIR"
# SageMaker shows at most this many characters of a failure file.
FAILURE_LIMIT = 1024
# A host that fails because another one did says this; the other one's own sentence is the reason to look for.
SECONDARY_FAILURE = "Another host of this job failed first"


class JobError(Exception):
    """A job cannot go on; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Resources:
    """The machines of a job, as `resourceconfig.json` names them.

    Attributes:
        current_host: this machine's name.
        hosts: every machine's name, in the same order on each.
        network_interface: the interface they reach each other by, or None for the default.
        instance_type: what kind of machine they are, or None where it is not SageMaker that says so.
    """

    current_host: str
    hosts: tuple[str, ...]
    network_interface: str | None = None
    instance_type: str | None = None

    @property
    def rank(self) -> int:
        """This machine's place among the hosts."""
        return self.hosts.index(self.current_host)


@dataclass(frozen=True)
class TrainingFolders:
    """The folders of a training job under its root."""

    base: Path

    @property
    def config(self) -> Path:
        return self.base / "input" / "config"

    @property
    def dataset(self) -> Path:
        """The channel `dataset`: train.jsonl, perhaps dev.jsonl."""
        return self.base / "input" / "data" / "dataset"

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def checkpoints(self) -> Path:
        return self.base / "checkpoints"

    @property
    def output_data(self) -> Path:
        """What is kept beside the model: the run's metrics."""
        return self.base / "output" / "data"

    @property
    def failure(self) -> Path:
        return self.base / "output" / "failure"


@dataclass(frozen=True)
class ProcessingFolders:
    """The folders of a processing job under its root."""

    base: Path

    @property
    def config(self) -> Path:
        return self.base / "config"

    @property
    def dataset(self) -> Path:
        return self.base / "processing" / "input" / "dataset"

    @property
    def language(self) -> Language:
        """The dataset's, as its manifest.json has it; Korean where none lies beside it.

        Raises:
            JobError: nothing is known of this language.
        """
        request = _read_object(self.dataset / "manifest.json").get("request")
        try:
            return languages.find(request.get("target_language", KOREAN.code)) if isinstance(request, dict) else KOREAN
        except languages.UnknownLanguageError as error:
            raise JobError(f"The dataset's target_language {error}.") from None

    @property
    def output(self) -> Path:
        return self.base / "processing" / "output"

    @property
    def failure(self) -> Path:
        return self.base / "output" / "message"


def base_dir() -> Path:
    """Return the root folder: SAGEMAKER_BASE_DIR, or /opt/ml."""
    return Path(os.environ.get(BASE_DIR_VARIABLE) or "/opt/ml")


def model_dir() -> Path | None:
    """Return where a serving container finds its model; None where nothing is SageMaker's."""
    return base_dir() / "model" if os.environ.get(BASE_DIR_VARIABLE) or base_dir().is_dir() else None


def read_hyperparameters(config: Path) -> dict[str, str]:
    """Return the hyperparameters, all strings; {} when there is no file."""
    values = _read_object(config / "hyperparameters.json")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def read_resources(config: Path) -> Resources:
    """Return the job's machines; a folder without `resourceconfig.json` means this machine alone."""
    values = _read_object(config / "resourceconfig.json")
    if not values:
        return Resources("localhost", ("localhost",))
    hosts = tuple(values.get("hosts") or ())
    current = values.get("current_host")
    if not isinstance(current, str) or current not in hosts:
        raise JobError(f"{config / 'resourceconfig.json'}: current_host {current!r} is not among the hosts {list(hosts)}.")
    return Resources(current, hosts, values.get("network_interface_name"), values.get("current_instance_type"))


def read_processing_instance(config: Path) -> str | None:
    """Return the instance type of a processing job, whose `resourceconfig.json` lacks it; None outside of SageMaker."""
    resources = _read_object(config / "processingjobconfig.json").get("ProcessingResources")
    cluster = resources.get("ClusterConfig") if isinstance(resources, dict) else None
    named = cluster.get("InstanceType") if isinstance(cluster, dict) else None
    return named or _read_object(config / "resourceconfig.json").get("current_instance_type")


def fail(sentence: str, file: Path) -> None:
    """Write why the job failed to where SageMaker looks, unless something more to the point stands there already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not file.read_text(encoding="utf-8").startswith(SECONDARY_FAILURE):
        return
    one_line = " ".join(sentence.split())
    file.write_text(one_line[:FAILURE_LIMIT], encoding="utf-8")


def describe(error: BaseException) -> str:
    """Turn an exception into the one sentence of a failure file."""
    if isinstance(error, JobError):
        return str(error)
    if disk.is_full(error):
        place = Path(getattr(error, "filename", None) or base_dir())
        return f"The disk is full: {disk.no_room(place)}. Give the job a larger volume (volume_gb). ({type(error).__name__})"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "Out of memory: lower micro_batch_tokens (the effective batch stays the same), set gradient_checkpointing, lower "
            "group_size or max_length, or use a larger instance."
        )
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise JobError(f"{path} must hold a JSON object.")
    return value
