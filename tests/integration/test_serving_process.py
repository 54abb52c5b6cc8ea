"""The serve command as a platform runs it: how it starts, refuses to start, and stops."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_process import COMMAND, Server, environment, free_port, serving

from ko_reranker.samples import tiny_model


def documents(count: int) -> list[str]:
    """Texts that differ, for equal ones of a request are computed once."""
    return [f"문서 {number}: " + "서울의 인구는 약 940만 명이다. " * 6 for number in range(count)]


BODY = {"query": "서울의 인구는?", "documents": documents(200)}
CLIENTS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ml")
    tiny_model.build(folder / "model")
    return folder


class Client(threading.Thread):
    """Asks again and again on one kept connection, until there is no server any more.

    Attributes:
        answers: how many whole answers it got.
        failure: what ended it.
    """

    def __init__(self, server: Server, body: dict, answered: threading.Semaphore) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        self._body = json.dumps(body).encode()
        self._answered = answered
        self.answers = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                self._connection.request("POST", "/invocations", self._body, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                assert answer.status == 200
                assert len(json.loads(answer.read())["results"]) == len(BODY["documents"])
                self.answers += 1
                self._answered.release()
        except Exception as error:
            self.failure = error


def lines(server: Server) -> list[dict]:
    """Return what the server has logged."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_sigterm_under_load_answers_whatever_was_accepted_and_exits_with_zero(base, tmp_path):
    answered = threading.Semaphore(0)
    with serving(base, tmp_path / "log") as server:
        clients = [Client(server, BODY, answered) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for _ in range(2 * CLIENTS):
            assert answered.acquire(timeout=60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        for client in clients:
            client.join(timeout=60)
    # What came too late was never taken in: a closed door, and never half an answer.
    assert all(isinstance(client.failure, ConnectionError) for client in clients), [client.failure for client in clients]
    events = [line["event"] for line in lines(server)]
    assert events.count("rerank") == sum(client.answers for client in clients)
    assert events[-1] == "drained"
    assert not {"defect", "disconnected"} & set(events)
    assert "인구" not in server.log.read_text()


def test_a_client_that_leaves_takes_its_work_with_it(base, tmp_path):
    large = json.dumps(BODY | {"documents": documents(5_000)}).encode()
    # Time enough for a machine that does other things, too: what can't be done in its time is not even queued.
    with serving(base, tmp_path / "log", KO_RERANKER_WORKERS="1", KO_RERANKER_REQUEST_TIMEOUT="900") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
            wait_until(lambda: figures(server)["ko_reranker_waiting_tokens"] > 0, "the work to be queued")
        wait_until(lambda: figures(server)["ko_reranker_waiting_tokens"] == 0, "the queue to be empty")
        wait_until(lambda: any(line["event"] == "disconnected" for line in lines(server)), "the log line")
        computed = figures(server)["ko_reranker_computed_tokens_total"]
    asked = 5_000 * 20
    assert computed < asked, "all of the work was done for nobody"


def test_overload_sends_away_with_a_time_to_come_again_and_takes_no_more_memory(base, tmp_path):
    limits = {"KO_RERANKER_MAX_QUEUE_TOKENS": "20000", "KO_RERANKER_MAX_WAITING": "16", "KO_RERANKER_MAX_WAITING_MB": "4"}
    body = json.dumps(BODY).encode()

    def ask(url: str) -> tuple[int, str | None]:
        request = urllib.request.Request(f"{url}/rerank", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, None
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Retry-After"]

    with serving(base, tmp_path / "log", **limits) as server, ThreadPoolExecutor(32) as callers:
        memory = []
        for _ in range(4):
            answers = list(callers.map(ask, [server.url] * 96))
            memory.append(figures(server)["process_resident_memory_bytes"])
            assert {status for status, _ in answers} == {200, 429}
            assert all(wait and int(wait) >= 1 for status, wait in answers if status == 429)
        left = figures(server)
        assert left["ko_reranker_waiting_tokens"] == left["ko_reranker_requests_in_progress"] == 0
        # The first storm fills allocators and caches; the later ones must live in what it left.
        assert memory[-1] < memory[0] * 1.15
        assert ask(server.url)[0] == 200


def figures(server: Server) -> dict[str, float]:
    """Return the samples of /metrics that have no labels, by name."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that shows only from outside."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


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


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of the memory from Linux")
def test_the_largest_bodies_take_a_few_times_their_size(base, tmp_path):
    hostile = {
        "one document": ["a b c d " * 3_000_000],
        "a thousand": [f"{number} a b c d " * 2_000 for number in range(1_000)],
        "white space": ["가" + " " * 24_000_000 + "나"],
    }
    with serving(base, tmp_path / "log", KO_RERANKER_MAX_LENGTH="32", KO_RERANKER_MAX_CHUNKS="4") as server:
        before = peak_bytes(server)
        for what, documents in hostile.items():
            body = json.dumps({"query": "a", "documents": documents}, ensure_ascii=False).encode()
            assert 20_000_000 < len(body) < 25_000_000
            request = urllib.request.Request(f"{server.url}/rerank", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert len(json.load(answer)["results"]) == len(documents)
            assert peak_bytes(server) - before < 20 * 25_000_000, what


def peak_bytes(server: Server) -> int:
    """Return the most memory that the server has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
