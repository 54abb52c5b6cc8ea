"""Parts of the local SageMaker that need no server: files from S3, hosts' paths, the store, plans of an update."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import UnseekableStreamError

from local_cloud.sagemaker import hosting, training
from local_cloud.sagemaker.errors import ApiError, JobError
from local_cloud.sagemaker.jobs import Host, Outcome
from local_cloud.sagemaker.store import Store, shown
from local_cloud.sagemaker.transfer import FolderSync, download, merged, relative_name, split_uri


class Bucket:
    """An S3 client over one bucket in memory: the calls `transfer` makes."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.uploads: list[str] = []

    def get_paginator(self, _name: str) -> Bucket:
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[dict[str, Any]]:
        return [{"Contents": [{"Key": k} for k in sorted(self.objects) if k.startswith(Prefix)]}]

    def download_file(self, _bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(self.objects[key])

    def upload_file(self, path: str, _bucket: str, key: str, ExtraArgs: dict[str, str]) -> None:
        self.uploads.append(key)
        self.objects[key] = Path(path).read_bytes()


@pytest.mark.parametrize(
    ("key", "prefix", "name"),
    [
        ("data/a/b.jsonl", "data/", "a/b.jsonl"),
        ("data/a/b.jsonl", "data", "a/b.jsonl"),
        ("data/a.jsonl", "data/a.jsonl", "a.jsonl"),
        ("data/part-1", "data/part-", "part-1"),
        ("a", "", "a"),
    ],
)
def test_an_object_lands_where_sagemaker_puts_it(key: str, prefix: str, name: str) -> None:
    assert relative_name(key, prefix) == name


def test_both_spellings_of_an_s3_location_are_read() -> None:
    assert split_uri("s3://bucket/a/b") == ("bucket", "a/b")
    assert split_uri("https://s3.ap-northeast-2.amazonaws.com/bucket/a/b") == ("bucket", "a/b")
    with pytest.raises(JobError):
        split_uri("ftp://bucket/a")


def test_a_key_cannot_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="outside"):
        download(Bucket({"data/../../evil": b""}), "s3://b/data/", tmp_path / "in", ["data/../../evil"])


def test_the_first_host_that_has_a_file_wins(tmp_path: Path) -> None:
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
        (tmp_path / host / "model.bin").write_text(host)
    (tmp_path / "two" / "extra").write_text("two")
    files = merged([tmp_path / "one", tmp_path / "two"])
    assert {name: path.read_text() for name, path in files.items()} == {"extra": "two", "model.bin": "one"}


@pytest.mark.parametrize(("breaks", "arrives"), [(2, True), (3, False)])
def test_an_upload_whose_connection_breaks_begins_anew(tmp_path: Path, breaks: int, arrives: bool) -> None:
    class Breaking(Bucket):
        def upload_file(self, path: str, bucket: str, key: str, ExtraArgs: dict[str, str]) -> None:
            super().upload_file(path, bucket, f"try {len(self.uploads)}", ExtraArgs)
            if len(self.uploads) <= breaks:
                raise UnseekableStreamError(stream_object=None)

    bucket = Breaking({})
    (tmp_path / "step-1").write_text("weights")
    with nullcontext() if arrives else pytest.raises(UnseekableStreamError):
        FolderSync(bucket, tmp_path, "s3://b/checkpoints").upload()
    assert len(bucket.uploads) == 3


def test_checkpoints_are_restored_and_only_changes_are_uploaded(tmp_path: Path) -> None:
    bucket = Bucket({"checkpoints/step-1": b"old"})
    sync = FolderSync(bucket, tmp_path, "s3://b/checkpoints/")
    sync.restore()
    (tmp_path / "step-2").write_text("new")
    sync.upload()
    sync.upload()
    assert bucket.uploads == ["checkpoints/step-2"]


def test_container_paths_and_arguments_point_into_the_hosts_folder(tmp_path: Path) -> None:
    host = Host("algo-1", tmp_path)
    assert host.path("/opt/ml/processing/input") == tmp_path / "processing/input"
    assert host.translate("/opt/ml/processing/input/x") == f"{tmp_path}/processing/input/x"
    assert host.translate("s3://bucket/opt/ml/x") == "s3://bucket/opt/ml/x"
    with pytest.raises(JobError, match="/opt/ml only"):
        host.path("/tmp/x")


def test_a_failed_host_speaks_for_the_job(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "failure").write_text("No records.\n")
    status, _, reason = training.verdict(Outcome(failed=(Host("algo-1", tmp_path), 1)))
    assert (status, reason) == ("Failed", "AlgorithmError: No records., exit code: 1")


def test_the_last_value_of_a_metric_counts(tmp_path: Path) -> None:
    metrics = training.Metrics([{"Name": "loss", "Regex": r"loss=([0-9.]+)"}])
    for line in ("step=1/3 loss=0.7", "nothing", "step=2/3 loss=0.5"):
        metrics.read(Host("algo-1", tmp_path), line)
    assert [(m["MetricName"], m["Value"]) for m in metrics.final()] == [("loss", 0.5)]


def test_the_store_survives_and_hides_its_own_members(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.json")
    with store.change():
        store.all("models")["m"] = {"ModelName": "m", "_secret": 1, "Nothing": None}
    again = Store(tmp_path / "store.json")
    assert again.all("models")["m"]["_secret"] == 1
    assert shown(again.all("models")["m"]) == {"ModelName": "m"}
    assert json.loads((tmp_path / "store.json").read_text())["models"]


def plan(**changes: Any) -> dict[str, Any]:
    return {"VariantName": "main", "Count": 1, "Weight": 1.0, "Container": {}, **changes}


def test_an_update_may_keep_the_live_counts_and_weights() -> None:
    live, wanted = [plan(Count=3, Weight=0.5)], [plan(Container={"Image": "new"})]
    assert hosting.retain(live, wanted, set()) == [plan(Count=3, Weight=0.5, Container={"Image": "new"})]
    assert hosting.retain(live, wanted, {"DesiredInstanceCount"})[0]["Count"] == 1
    assert hosting.retain([], wanted, set()) == wanted


def test_a_canary_needs_two_instances() -> None:
    routing = {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}, "WaitIntervalInSeconds": 60}
    deployment = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}
    with pytest.raises(ApiError, match="at most half of the variant's instances; variant main has 1"):
        hosting.check_canary(deployment, [plan()])
    hosting.check_canary(deployment, [plan(Count=2)])
