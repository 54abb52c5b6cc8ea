"""Every flag of ``ko-reranker serve`` arrives where it has an effect, from the command line and from the environment."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from stub_ranker import StubRanker
from typer.testing import CliRunner

import ko_reranker.rankers
import ko_reranker.serving.server
from ko_reranker.cli import app
from ko_reranker.rankers import EngineOptions
from ko_reranker.serving import Metrics, ServingOptions

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Catch what the command would have loaded and run."""
    seen: dict[str, Any] = {}

    def load(source: str, engine: EngineOptions, **about: Any) -> StubRanker:
        seen.update(source=source, engine=engine, **about)
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
    assert getattr(started["engine"], where) == arrives
    serve("--model", "m", **{f"KO_RERANKER_{flag[2:].replace('-', '_').upper()}": given})
    assert getattr(started["engine"], where) == arrives


@pytest.mark.parametrize(
    ("flag", "given", "where", "arrives"),
    [
        ("--model-name", "release-7", "model_name", "release-7"),
        ("--max-body-mb", "1.5", "max_body_bytes", 1_500_000),
        ("--max-documents", "7", "max_documents", 7),
        ("--api-key", "a-key-of-more-than-20-characters", "keys", ("a-key-of-more-than-20-characters",)),
        ("--max-connections", "50", "max_connections", 50),
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


def test_the_log_level_is_what_is_written(started, capsys):
    serve("--model", "m", "--log-level", "warning")
    assert logging.getLogger("ko_reranker").level == logging.WARNING
    serve("--model", "m", KO_RERANKER_LOG_LEVEL="error")
    assert logging.getLogger("ko_reranker").level == logging.ERROR
    serve("--model", "m")
    assert logging.getLogger("ko_reranker").level == logging.INFO


def test_keys_come_from_the_command_line_the_environment_and_a_file_and_each_counts_once(started, tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the team\nthird-key-of-more-than-20-characters\n\nfirst-key-of-more-than-20-characters\n")
    first, second, third = (f"{name}-key-of-more-than-20-characters" for name in ("first", "second", "third"))
    serve("--model", "m", "--api-key", first, "--api-key", second, "--api-key-file", str(file))
    assert started["options"].keys == (first, second, third)
    serve("--model", "m", KO_RERANKER_API_KEY=f"{first} {second}", KO_RERANKER_API_KEY_FILE=str(file))
    assert started["options"].keys == (first, second, third)
    serve("--model", "m", KO_RERANKER_API_KEY=f"{first},{second}")
    assert started["options"].keys == (first, second)
    assert first not in repr(started["options"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "열쇠"], "key 1 of --api-key is no key"),
        (["--api-key", "x" * 129], "1 to 128"),
        (["--api-key-file", "nowhere"], "cannot read the keys in nowhere"),
        (["--api-key-file", "empty"], "empty has no key"),
        (["--tls-certificate", "cert"], "both --tls-certificate and --tls-key"),
        (["--tls-key", "cert"], "both --tls-certificate and --tls-key"),
        (["--tls-certificate", "empty", "--tls-key", "nowhere"], "no file nowhere"),
        (["--tls-certificate", "empty", "--tls-key", "empty"], "must be PEM"),
    ],
)
def test_what_cannot_protect_the_server_stops_it_before_it_is_loaded(started, tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("# nothing\n")
    done = CliRunner().invoke(app, ["serve", "--host", "127.0.0.1", "--model", "m", *flags])
    assert done.exit_code == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert "source" not in started


@pytest.mark.parametrize("name", ["API_KEY", "API_KEY_FILE", "TLS_CERTIFICATE", "TLS_KEY"])
def test_an_empty_variable_never_opens_the_server(started, name):
    done = CliRunner().invoke(app, ["serve", "--host", "127.0.0.1", "--model", "m"], env={f"KO_RERANKER_{name}": ""})
    assert done.exit_code == 1
    assert done.stderr.startswith(f"KO_RERANKER_{name} is set but empty: ") and len(done.stderr.splitlines()) == 1
    assert "source" not in started


def test_a_flag_counts_where_its_variable_is_empty(started):
    serve("--model", "m", "--api-key", "a-key-of-more-than-20-characters", KO_RERANKER_API_KEY="")
    assert started["options"].keys == ("a-key-of-more-than-20-characters",)


def test_health_and_metrics_are_open_as_the_flags_say(started):
    serve("--model", "m", "--api-key", "k")
    assert (started["options"].open_health, started["options"].open_metrics) == (True, False)
    serve("--model", "m", "--no-open-health", "--open-metrics")
    assert (started["options"].open_health, started["options"].open_metrics) == (False, True)
    serve("--model", "m", KO_RERANKER_OPEN_HEALTH="false", KO_RERANKER_OPEN_METRICS="true")
    assert (started["options"].open_health, started["options"].open_metrics) == (False, True)


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (["--host", EVERYWHERE], ["unprotected"]),
        (["--host", "127.0.0.1"], []),
        (["--host", "localhost"], []),
        (["--host", EVERYWHERE, "--api-key", "x" * 20], []),
        (["--host", EVERYWHERE, "--api-key", "x" * 19], ["short keys"]),
    ],
)
def test_it_warns_when_anybody_may_ask(started, caplog, flags, warned):
    caplog.set_level(logging.WARNING, logger="ko_reranker.serving")
    serve("--model", "m", *flags)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == warned
    assert "x" * 19 not in caplog.text


def test_without_flags_the_defaults_are_those_of_the_library(started):
    serve("--model", "BAAI/bge-reranker-v2-m3")
    assert started["options"] == ServingOptions(model_name="BAAI/bge-reranker-v2-m3")
    assert started["engine"] == EngineOptions()
    assert isinstance(started["observer"], Metrics) and started["trust_remote_code"] is False


def test_code_of_a_model_is_run_only_where_the_flag_says_so(started):
    serve("--model", "m", "--trust-remote-code")
    assert started["trust_remote_code"] is True


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
