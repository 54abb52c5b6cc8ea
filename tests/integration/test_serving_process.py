"""The serve command as a platform runs it: how it starts, refuses to start, and stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from serving_process import COMMAND, environment, free_port, serving

from ko_reranker.samples import tiny_model

BODY = {"query": "서울의 인구는?", "documents": ["서울의 인구는 약 940만 명이다. " * 6, "부산은 항구 도시이다. " * 6] * 500}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ml")
    tiny_model.build(folder / "model")
    return folder


def post(url: str) -> dict:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/invocations", json.dumps(BODY).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_sigterm_answers_what_was_accepted_and_exits_with_zero(base, tmp_path):
    with serving(base, tmp_path / "log") as server, ThreadPoolExecutor(4) as callers:
        answers = [callers.submit(post, server.url) for _ in range(4)]
        # One after the other is scored: when the first is answered, the others wait inside.
        wait(answers, return_when=FIRST_COMPLETED)
        server.process.send_signal(signal.SIGTERM)
        assert not all(answer.done() for answer in answers), "nothing was in flight: the test proves nothing"
        assert all(len(answer.result()["results"]) == 1000 for answer in answers)
        assert server.process.wait(timeout=30) == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line["event"] == "rerank" for line in lines) == 4
    assert "인구" not in server.log.read_text()


def test_sigterm_while_loading_is_a_clean_exit(base):
    process = subprocess.Popen(COMMAND, env=environment(base, free_port()))
    time.sleep(1.5)
    process.terminate()
    assert process.wait(timeout=30) in {0, -signal.SIGTERM}


def test_a_missing_model_is_one_sentence_and_exit_code_one(tmp_path):
    done = subprocess.run(COMMAND, env=environment(tmp_path, free_port()), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot load the model {tmp_path / 'model'}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_model_is_one_sentence_and_exit_code_one(base, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text((base / "model" / "config.json").read_text())
    done = subprocess.run(COMMAND, env=environment(tmp_path, free_port()), capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_taken_port_is_named_before_the_model_is_loaded(base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(COMMAND, env=environment(base, port), capture_output=True, text=True)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr and "--port" in done.stderr
