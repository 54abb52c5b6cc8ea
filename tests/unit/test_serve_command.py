"""Every flag of ``ko-reranker serve`` arrives where it has an effect, from the command line and from the environment."""

from __future__ import annotations

import inspect
import socket
from typing import Any

import pytest
from stub_ranker import StubRanker
from typer.testing import CliRunner

import ko_reranker.rankers
import ko_reranker.serving.server
from ko_reranker.cli import app
from ko_reranker.rankers import interface
from ko_reranker.serving import Metrics, ServingOptions


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Catch what the command would have loaded and run."""
    seen: dict[str, Any] = {}

    def load(source: str, **tuning: Any) -> StubRanker:
        seen.update(source=source, tuning=tuning)
        return StubRanker()

    def run(app: object, listener: Any, options: ServingOptions) -> bool:
        seen.update(options=options, address=listener.getsockname())
        listener.close()
        return True

    monkeypatch.setattr(ko_reranker.rankers, "load_ranker", load)
    monkeypatch.setattr(ko_reranker.serving.server, "run", run)
    monkeypatch.setattr(ko_reranker.serving.server, "leave_on_signals", lambda: None)
    monkeypatch.setattr("ko_reranker.serving.logs.configure_logging", lambda: None)
    return seen


def serve(*flags: str, **environment: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    variables = {"SAGEMAKER_BIND_TO_PORT": port, **environment}
    done = CliRunner().invoke(app, ["serve", "--host", "127.0.0.1", *flags], env=variables)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("flag", "given", "where", "arrives"),
    [
        ("--device", "cpu", "device", "cpu"),
        ("--dtype", "int8", "dtype", "int8"),
        ("--max-length", "256", "max_length", 256),
        ("--max-chunks", "3", "max_chunks", 3),
        ("--chunk-overlap", "10", "chunk_overlap", 10),
        ("--batch-tokens", "333", "batch_tokens", 333),
        ("--workers", "3", "workers", 3),
        ("--max-queue-tokens", "9000", "max_queue_tokens", 9000),
    ],
)
def test_what_is_the_models_arrives_at_the_model(started, flag, given, where, arrives):
    serve("--model", "m", flag, given)
    assert started["tuning"][where] == arrives
    serve("--model", "m", **{f"KO_RERANKER_{flag[2:].replace('-', '_').upper()}": given})
    assert started["tuning"][where] == arrives


@pytest.mark.parametrize(
    ("flag", "given", "where", "arrives"),
    [
        ("--model-name", "release-7", "model_name", "release-7"),
        ("--max-body-mb", "1.5", "max_body_bytes", 1_500_000),
        ("--max-documents", "7", "max_documents", 7),
        ("--max-waiting", "5", "max_waiting", 5),
        ("--max-waiting-mb", "9", "max_waiting_bytes", 9_000_000),
        ("--request-timeout", "2.5", "request_timeout_seconds", 2.5),
        ("--drain-seconds", "4", "drain_seconds", 4),
    ],
)
def test_what_is_the_servers_arrives_at_the_server(started, flag, given, where, arrives):
    serve("--model", "m", flag, given)
    assert getattr(started["options"], where) == arrives
    serve("--model", "m", **{f"KO_RERANKER_{flag[2:].replace('-', '_').upper()}": given})
    assert getattr(started["options"], where) == arrives


def test_without_flags_the_defaults_are_those_of_the_library(started):
    serve("--model", "BAAI/bge-reranker-v2-m3")
    assert started["options"] == ServingOptions(model_name="BAAI/bge-reranker-v2-m3")
    assert isinstance(started["tuning"].pop("observer"), Metrics)
    parameters = inspect.signature(interface.load_ranker).parameters
    assert started["tuning"] == {name: parameters[name].default for name in started["tuning"]}


def test_it_listens_where_it_is_told_to(started):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    serve("--model", "m", "--host", "localhost", "--port", str(port))
    assert started["address"] == ("127.0.0.1", port)
    serve("--model", "m", SAGEMAKER_BIND_TO_PORT=str(port))
    assert started["address"] == ("127.0.0.1", port)


def test_who_names_no_model_is_told_how_to(monkeypatch, tmp_path):
    monkeypatch.setattr(ko_reranker.serving.server, "leave_on_signals", lambda: None)
    monkeypatch.setattr("ko_reranker.serving.logs.configure_logging", lambda: None)
    done = CliRunner().invoke(app, ["serve", "--host", "127.0.0.1"], env={"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert done.exit_code == 1
    assert "no model folder" in done.stderr and "--model" in done.stderr


def test_on_a_laptop_it_serves_the_reranker_in_the_box(started, tmp_path, monkeypatch):
    monkeypatch.setattr("ko_reranker.container.base_dir", lambda: tmp_path / "no such folder")
    serve()
    assert started["source"] == "sample:mini"


def test_in_sagemaker_the_model_lies_in_its_folder(started, tmp_path):
    serve(SAGEMAKER_BASE_DIR=str(tmp_path))
    assert started["source"] == str(tmp_path / "model")
    assert started["options"].model_name == "ko-reranker"
