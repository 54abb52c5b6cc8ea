"""From a model's address to a folder."""

from __future__ import annotations

import boto3
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
