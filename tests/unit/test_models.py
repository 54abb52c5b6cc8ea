"""From a model's address to a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import boto3
import huggingface_hub
import pytest
from moto import mock_aws

from ko_reranker import disk
from ko_reranker.models import DiskFullError, ModelNotFoundError, hub_commit, is_pinned, resolve_model


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KO_RERANKER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="models")
        yield client


def test_a_folder_is_itself(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path


def test_a_folder_without_a_model_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        resolve_model(tmp_path)


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        resolve_model("/nowhere/model")


def test_an_s3_prefix_is_downloaded_once_and_anew_when_it_changed(s3) -> None:
    for name in ("config.json", "sub/vocab.txt"):
        s3.put_object(Bucket="models", Key=f"run/output/model/{name}", Body=b"{}")
    first = resolve_model("s3://models/run/output/model/")
    assert (first / "sub" / "vocab.txt").read_text() == "{}"
    assert resolve_model("s3://models/run/output/model") == first
    s3.put_object(Bucket="models", Key="run/output/model/config.json", Body=b'{"a": 1}')
    assert (resolve_model("s3://models/run/output/model") / "config.json").read_text() == '{"a": 1}'


def test_a_prefix_is_not_its_longer_namesake(s3) -> None:
    s3.put_object(Bucket="models", Key="run-10/config.json", Body=b"{}")
    with pytest.raises(ModelNotFoundError, match="nothing under"):
        resolve_model("s3://models/run-1")


def test_a_bucket_that_does_not_exist_is_named(s3) -> None:
    with pytest.raises(ModelNotFoundError, match="s3://absent/model"):
        resolve_model("s3://absent/model")


def test_the_sample_model_is_built_once() -> None:
    folder = resolve_model("sample:tiny")
    assert (folder / "model.safetensors").is_file()
    assert resolve_model("sample:tiny") == folder


def test_a_sample_that_does_not_exist_is_told_from_those_that_do() -> None:
    with pytest.raises(ModelNotFoundError, match=r"sample:mini, sample:tiny and sample:tiny-decoder"):
        resolve_model("sample:small")


class Hub(BaseHTTPRequestHandler):
    """The Hugging Face hub, as far as downloading a repository goes."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []
    revisions: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.repositories.items():
            if path in (f"/api/models/{name}/revision/{known}" for known in ("main", "v1.0", "refs%2Fpr%2F1", self.COMMIT)):
                self.revisions.append(path.rpartition("/")[2])
                siblings = [{"rfilename": file} for file in files]
                return self._send(json.dumps({"id": name, "sha": self.COMMIT, "siblings": siblings}).encode())
            if path == f"/api/models/{name}/tree/{self.COMMIT}":
                tree = [{"type": "file", "path": file, "size": len(body), "oid": "0" * 40} for file, body in files.items()]
                return self._send(json.dumps(tree).encode())
            file = path.removeprefix(f"/{name}/resolve/{self.COMMIT}/")
            if file in files:
                self.asked.append(file)
                return self._send(files[file])
        return self._send(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": self.COMMIT}
        for key, value in {"Content-Length": str(len(body)), **etag, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.repositories, Hub.asked, Hub.revisions = {}, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield Hub
    server.shutdown()
    server.server_close()


REPOSITORY = {"config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"#", "pytorch_model.bin": b"weights"}


def test_of_a_hub_repository_only_what_is_needed_is_downloaded(hub) -> None:
    hub.repositories["org/model"] = REPOSITORY | {"model.safetensors": b"safe", "onnx/model.onnx": b"large"}
    folder = resolve_model("org/model")
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == b"safe"
    assert "pytorch_model.bin" not in hub.asked


def test_a_hub_repository_gives_pickled_weights_only_when_told_to(hub, monkeypatch) -> None:
    hub.repositories["org/old-model"] = REPOSITORY
    with pytest.raises(ModelNotFoundError, match=r"org/old-model has its weights in .*\.bin.*pickle.*--allow-bin"):
        resolve_model("org/old-model")
    assert "pytorch_model.bin" not in hub.asked
    monkeypatch.setenv("KO_RERANKER_ALLOW_BIN", "1")
    assert (resolve_model("org/old-model") / "pytorch_model.bin").read_bytes() == b"weights"


def test_a_folder_or_prefix_with_pickled_weights_is_refused_likewise(s3, tmp_path, monkeypatch) -> None:
    for name in ("config.json", "pytorch_model-00001-of-00002.bin"):
        (tmp_path / name).write_text("{}")
        s3.put_object(Bucket="models", Key=f"old/{name}", Body=b"{}")
    for address in (str(tmp_path), "s3://models/old/"):
        with pytest.raises(ModelNotFoundError, match=r"pytorch_model-00001-of-00002\.bin .*--allow-bin"):
            resolve_model(address)
    (tmp_path / "model.safetensors").write_text("beside them")
    assert resolve_model(tmp_path) == tmp_path, "safetensors are what is read where there are some"
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "1_Dense" / "pytorch_model.bin").write_text("a head")
    with pytest.raises(ModelNotFoundError, match=r"1_Dense/pytorch_model\.bin"):
        resolve_model(tmp_path)
    monkeypatch.setenv("KO_RERANKER_ALLOW_BIN", "1")
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model("s3://models/old/").is_dir()


@pytest.mark.parametrize("names", [("pytorch_model.bin", "spare.safetensors"), ("pytorch_model.bin.index.json", "weights.pkl")])
def test_weights_are_pickles_whatever_they_are_called_and_whatever_lies_beside_them(names, hub, tmp_path, monkeypatch) -> None:
    for name in ("config.json", *names):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelNotFoundError, match=rf"{re.escape(names[0])} .*--allow-bin"):
        resolve_model(tmp_path)
    hub.repositories["org/beside"] = {"config.json": b"{}", **dict.fromkeys(names, b"weights")}
    with pytest.raises(ModelNotFoundError, match=r"--allow-bin"):
        resolve_model("org/beside")
    monkeypatch.setenv("KO_RERANKER_ALLOW_BIN", "1")
    assert resolve_model(tmp_path) == tmp_path


@pytest.mark.parametrize("address", ["org/name@../../main", "org/name@v1/../../x", "org/.."])
def test_a_hub_id_leads_nowhere_else(address, hub) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no model folder"):
        resolve_model(address)
    assert not hub.asked


@pytest.mark.parametrize("revision", ["v1.0", Hub.COMMIT, "refs/pr/1"])
def test_a_revision_is_what_is_downloaded_and_its_commit_is_known(hub, revision) -> None:
    hub.repositories["org/model"] = {"config.json": b"{}", "model.safetensors": b"safe"}
    folder = resolve_model(f"org/model@{revision}")
    assert hub_commit(folder) == Hub.COMMIT
    assert hub.revisions or revision == Hub.COMMIT, "a commit needs no asking"
    assert set(hub.revisions) <= {revision.replace("/", "%2F")}


def test_a_model_that_is_not_from_the_hub_has_no_commit(tmp_path) -> None:
    assert hub_commit(tmp_path) is None
    assert hub_commit(resolve_model("sample:tiny")) is None


def test_a_revision_that_does_not_exist_is_named(hub) -> None:
    hub.repositories["org/model"] = {"config.json": b"{}", "model.safetensors": b"safe"}
    with pytest.raises(ModelNotFoundError, match="org/model@v9 is no folder here"):
        resolve_model("org/model@v9")


@pytest.mark.parametrize(
    "key", ["run/../../../escaped", "run//etc/escaped", "run/a/../../../../escaped", "run/./config.json", "run/a\\..\\b"]
)
def test_a_key_that_leads_out_of_the_models_folder_is_refused_before_anything_is_written(s3, tmp_path, key) -> None:
    s3.put_object(Bucket="models", Key="run/config.json", Body=b"{}")
    s3.put_object(Bucket="models", Key=key, Body=b"bad")
    with pytest.raises(ModelNotFoundError, match="leads out of the model's folder") as refused:
        resolve_model("s3://models/run/")
    assert repr(key) in str(refused.value)
    assert not list(tmp_path.rglob("*escaped*")) and not list((tmp_path / "cache").rglob("*.json"))


def test_a_prefix_is_taken_as_it_stands_slashes_included(s3) -> None:
    s3.put_object(Bucket="models", Key="/deep//config.json", Body=b"{}")
    assert (resolve_model("s3://models//deep//") / "config.json").is_file()


def test_keys_that_cannot_both_be_files_are_told_without_a_trace(s3) -> None:
    for key in ("config.json", "a", "a/b"):
        s3.put_object(Bucket="models", Key=f"run/{key}", Body=b"{}")
    with pytest.raises(ModelNotFoundError, match=r"s3://models/run/ cannot be stored below .*KO_RERANKER_CACHE"):
        resolve_model("s3://models/run/")


def test_a_download_that_does_not_fit_is_refused_at_once_with_its_bytes(s3, monkeypatch, tmp_path) -> None:
    s3.put_object(Bucket="models", Key="run/config.json", Body=b"{}" + b" " * 3_000_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(DiskFullError, match=r"There is no room for s3://models/run/: the disk of .*/cache/s3 has 2\.0 MB free"):
        resolve_model("s3://models/run/")
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_told_as_that_and_not_as_another_model(s3, monkeypatch, code) -> None:
    s3.put_object(Bucket="models", Key="run/config.json", Body=b"{}")

    def full(self, *_, **__):
        raise OSError(code, os.strerror(code), "config.json")

    monkeypatch.setattr("boto3.s3.inject.S3Transfer.download_file", full)
    with pytest.raises(DiskFullError, match=r"no room for s3://models/run/.*free, and 2 bytes are needed.*KO_RERANKER_CACHE"):
        resolve_model("s3://models/run/")


def test_a_disk_that_fills_up_under_a_hub_download_is_told_with_what_is_missing(hub, monkeypatch) -> None:
    hub.repositories["org/model"] = {"config.json": b"{}", "model.safetensors": b"x" * 1_500_000}
    resolved = huggingface_hub.snapshot_download

    def full(*args, **options):
        if options.get("dry_run"):
            return resolved(*args, **options)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the download stopped") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(DiskFullError, match=r"no room for org/model: .*free, and 1\.5 MB are needed.*HF_HOME"):
        resolve_model("org/model")


def test_a_hub_repository_that_does_not_exist_is_named_with_what_to_do(hub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"org/absent is no folder here.*RepositoryNotFound.*HF_TOKEN"):
        resolve_model("org/absent")


def test_a_hub_id_may_name_its_revision_and_code_comes_along_only_when_wanted(hub, monkeypatch) -> None:
    asked = []

    def download(repository: str, *, revision: str | None, allow_patterns: tuple[str, ...]) -> str:
        asked.append((repository, revision, "*.py" in allow_patterns))
        return real(repository, allow_patterns=allow_patterns)

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.repositories["org/model"] = REPOSITORY | {"model.safetensors": b"safe", "modeling.py": b"print()"}
    commit = "a" * 40
    assert not (resolve_model("org/model") / "modeling.py").exists()
    assert (resolve_model(f"org/model@{commit}", code=True) / "modeling.py").exists()
    resolve_model("org/model@v1.0")
    assert asked == [("org/model", None, False), ("org/model", commit, True), ("org/model", "v1.0", False)]


@pytest.mark.parametrize(
    ("address", "pinned"),
    [
        ("org/model", False),
        ("org/model@main", False),
        ("org/model@" + "a" * 40, True),
        ("org/model@" + "A" * 40, False),
        ("org/model@" + "a" * 41, False),
        ("/models/mine", True),
        ("s3://models/run-1/", True),
        ("sample:mini", True),
    ],
)
def test_a_pinned_address_is_always_the_same_model(address: str, pinned: bool) -> None:
    assert is_pinned(address) is pinned
