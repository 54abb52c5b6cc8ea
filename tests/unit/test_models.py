"""From a model's address to a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import boto3
import huggingface_hub
import pytest
from moto import mock_aws

from ko_reranker.models import ModelNotFoundError, resolve_model


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
    with pytest.raises(ModelNotFoundError, match=r"sample:mini and sample:tiny"):
        resolve_model("sample:small")


class Hub(BaseHTTPRequestHandler):
    """The Hugging Face hub, as far as downloading a repository goes."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.repositories.items():
            if path == f"/api/models/{name}/revision/main":
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
    Hub.repositories, Hub.asked = {}, []
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


def test_a_hub_repository_without_safetensors_gives_its_older_weights(hub) -> None:
    hub.repositories["org/old-model"] = REPOSITORY
    assert (resolve_model("org/old-model") / "pytorch_model.bin").read_bytes() == b"weights"


def test_a_hub_repository_that_does_not_exist_is_named_with_what_to_do(hub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"org/absent is no folder here.*RepositoryNotFound.*HF_TOKEN"):
        resolve_model("org/absent")
