"""Senders that stall, trickle or say nothing hold nobody up, and no connection lasts for ever."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import h11
import pytest
from serving_sockets import BODY, answer, ask, closed, connect, head, listening, request, wait_for
from stub_ranker import StubRanker

from ko_reranker.serving import ServingOptions
from ko_reranker.serving import connections as module
from ko_reranker.serving import intake as intake_module
from ko_reranker.serving.connections import allow_files
from ko_reranker.serving.parsing import Parser

# Of the machine that runs the tests, not of the server.
GENEROUS = 20.0


def test_senders_of_one_byte_take_no_place_from_anybody():
    with listening(ServingOptions(max_waiting=4)) as server, ExitStack() as held:
        for _ in range(40):
            held.enter_context(connect(server.port, head(length=1000) + b"{"))
        wait_for(lambda: server.connections == 40, "the arrival of all")
        assert [ask(server.port)[0] for _ in range(8)] == [200] * 8


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"POST /rerank HT",
        b"POST /rerank HTTP/1.1\r\nHost: x\r\n",
        request() + b"POST /rer",
    ],
    ids=["silence", "half a line", "half a head", "half a head behind a request"],
)
def test_a_head_that_does_not_come_closes_the_connection(first, monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    with listening() as server, connect(server.port, first) as connection:
        assert closed(connection, GENEROUS)
        wait_for(lambda: server.connections == 0, "the departure")


def test_a_head_that_trickles_gets_no_more_time_than_one_that_stalls(monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)
    with listening() as server, connect(server.port, b"GET /ping HTTP/1.1\r\nHost: x\r\nX: ") as connection:
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < GENEROUS:
                connection.sendall(b"a")
                time.sleep(0.05)


BEGUN = {
    "declared": head(length=500_000) + b"{",
    "chunked": head("/rerank", None, "Transfer-Encoding: chunked") + b"1\r\n{\r\n",
}


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_a_body_that_stops_is_told_so_and_let_go(begun, monkeypatch):
    monkeypatch.setattr(intake_module, "PROGRESS_SECONDS", 0.3)
    with listening() as server, connect(server.port, begun) as connection:
        status, body = answer(connection)
        assert (status, body["error_type"], body["error"]["code"]) == (408, "incomplete", 408)
        wait_for(lambda: server.connections == 0, "the departure")
        assert ask(server.port)[0] == 200


@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN)
def test_the_limit_of_a_request_covers_reading_it(begun):
    with listening(ServingOptions(request_timeout_seconds=0.5)) as server, connect(server.port, begun) as connection:
        assert answer(connection)[0] == 408


def test_a_body_that_trickles_is_one_that_stops(monkeypatch):
    monkeypatch.setattr(intake_module, "PROGRESS_SECONDS", 0.5)
    with listening() as server, connect(server.port, head(length=500_000)) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < GENEROUS:
                connection.sendall(b"[")
                time.sleep(0.05)


def test_a_body_that_keeps_coming_is_waited_for(monkeypatch):
    monkeypatch.setattr(intake_module, "PROGRESS_SECONDS", 1.0)
    content = json.dumps({"query": "질문", "documents": ["가" * 40_000] * 10}).encode()
    with listening() as server, connect(server.port, head("/rerank", len(content), "Connection: close")) as connection:
        for start in range(0, len(content), 100_000):
            connection.sendall(content[start : start + 100_000])
            time.sleep(0.1)
        assert answer(connection)[0] == 200


def test_what_follows_an_early_answer_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(module, "BODY_EXTRA_SECONDS", 0.0)
    with listening(ServingOptions(request_timeout_seconds=0.5)) as server:
        for path in ("/nowhere", "/ping"):
            with connect(server.port, head(path, 500_000)) as connection:
                assert closed(connection, GENEROUS)


def test_bodies_that_stand_still_make_room_for_one_that_moves(monkeypatch):
    monkeypatch.setattr(intake_module, "STALLED_SECONDS", 0.2)
    large = {"query": "질문", "documents": ["x" * 60_000]}
    with listening(ServingOptions(max_body_bytes=100_000, max_waiting_bytes=200_000)) as server, ExitStack() as held:
        stalled = [held.enter_context(connect(server.port, head(length=100_000) + b"x" * 66_000)) for _ in range(3)]
        time.sleep(0.5)
        assert ask(server.port, large)[0] == 200
        assert answer(stalled[0])[0] == 429
        assert not closed(stalled[2], 0.1), "no more than it takes are let go"


def chunked(chunks: list[bytes]) -> bytes:
    """Return a POST without the chunk that ends it."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces


def test_a_body_of_crumbs_is_refused():
    with listening() as server, connect(server.port, chunked([b" "] * 10_001)) as connection:
        status, body = answer(connection)
        assert status == 413 and "more than 10,000 chunks of less than 512 bytes" in body["message"]
        assert ask(server.port)[0] == 200


@pytest.mark.parametrize(("count", "size"), [(9_000, 1), (2_000, 300), (11_000, 600)], ids=["small", "middling", "common"])
def test_a_body_in_honest_chunks_is_taken_whole_and_so_is_what_follows(count, size):
    body = json.dumps(BODY).encode()
    padded = body + b" " * (count * size - len(body))
    chunks = [padded[at : at + size] for at in range(0, len(padded), size)]
    two = chunked(chunks) + b"0\r\n\r\n" + request(BODY, "/rerank", "Connection: close")
    with listening() as server, connect(server.port, two) as connection:
        assert connection.makefile("rb").read().count(b"HTTP/1.1 200 OK") == 2


def test_chunks_that_arrive_at_once_are_parsed_a_few_at_a_time():
    parser = Parser()
    parser.receive_data(chunked([b" "] * 1_200) + b"0\r\n\r\n")
    turns, pieces = [], 0
    assert isinstance(parser.next_event(), h11.Request)
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if event is h11.PAUSED:
            turns.append(pieces)
            pieces = 0
        else:
            pieces += 1
    assert [*turns, pieces] == [500, 500, 200]


def impatient(monkeypatch, **seconds: float) -> None:
    """Let connections wait for less than the options say."""
    patience = module.Patience(**{"head": 10, "body": 10, "answer": 10, "idle": 10} | seconds)
    monkeypatch.setattr(module.Patience, "of", classmethod(lambda cls, timeout: patience))


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch):
    impatient(monkeypatch, answer=0.5)
    body = {"query": "질문", "documents": ["x" * 200_000] * 20, "return_documents": True}
    with listening() as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request(body))
        wait_for(lambda: server.server.server_state.total_requests == 1, "the answer")
        wait_for(lambda: server.connections == 0, "the departure")


def test_an_idle_connection_is_kept_for_a_while_and_then_closed(monkeypatch):
    impatient(monkeypatch, idle=1.0)
    with listening() as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(2):
            client.request("POST", "/rerank", json.dumps(BODY).encode())
            assert client.getresponse().read()
            time.sleep(0.2)
        assert closed(client.sock, GENEROUS)


# ---------------------------------------------------------------- too many of them


def test_who_says_nothing_makes_room_for_who_comes():
    with listening(ServingOptions(max_connections=8)) as server, ExitStack() as held:
        silent = [held.enter_context(connect(server.port)) for _ in range(60)]
        assert [ask(server.port)[0] for _ in range(5)] == [200] * 5
        wait_for(lambda: server.connections <= 8, "the departure of most")
        assert closed(silent[0], GENEROUS)


def test_a_request_that_is_being_answered_never_makes_room():
    ranker = Busy()
    with listening(ServingOptions(max_connections=4), ranker) as server, ExitStack() as held, ThreadPoolExecutor() as callers:
        gated = callers.submit(ask, server.port, {"query": "문 앞", "documents": ["문서"]})
        assert ranker.entered.acquire(timeout=30)
        for _ in range(20):
            held.enter_context(connect(server.port, head(length=10) + b"{"))
        wait_for(lambda: server.connections == 4, "a full house")
        ranker.leave.set()
        assert gated.result()[0] == 200
        assert ask(server.port)[0] == 200


def test_a_full_house_is_logged_once(caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    with listening(ServingOptions(max_connections=4)) as server, ExitStack() as held:
        for _ in range(50):
            held.enter_context(connect(server.port))
        assert ask(server.port)[0] == 200
    assert [record.message for record in caplog.records].count("crowded") == 1


def test_running_out_of_files_is_survived(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="ko_reranker.serving")
    with listening() as server:
        assert ask(server.port)[0] == 200
        failures, accept = iter([24] * 5), socket.socket.accept

        def short(listener):
            if number := next(failures, None):
                raise OSError(number, "Too many open files")
            return accept(listener)

        monkeypatch.setattr(socket.socket, "accept", short)
        assert [ask(server.port)[0] for _ in range(3)] == [200] * 3
    assert [record.message for record in caplog.records].count("out of files") == 1


def test_the_limit_of_files_is_raised_to_what_is_needed_and_else_bounds_the_connections(monkeypatch):
    set_to = []
    monkeypatch.setattr(module.resource, "setrlimit", lambda which, limits: set_to.append(limits))
    used = len(module.os.listdir("/dev/fd")) + 32
    monkeypatch.setattr(module.resource, "getrlimit", lambda which: (used + 100, used + 5000))
    assert allow_files(100) in (99, 100)
    assert abs(allow_files(1000) - 1000) <= 1 and abs(set_to[-1][0] - used - 1000) <= 1
    assert abs(allow_files(50_000) - 5000) <= 1 and set_to[-1][0] == used + 5000


class Busy(StubRanker):
    """Answers only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.leave = threading.Semaphore(0), threading.Event()

    def logit(self, query: str, document: str) -> float:
        if query == "문 앞":
            self.entered.release()
            assert self.leave.wait(timeout=30)
        return super().logit(query, document)


def test_when_everybody_waits_for_the_server_who_comes_next_waits_outside():
    ranker = Busy()
    with listening(ServingOptions(max_connections=2), ranker) as server, ThreadPoolExecutor() as callers:
        first = [callers.submit(ask, server.port, {"query": "문 앞", "documents": ["문서"]}) for _ in range(2)]
        assert ranker.entered.acquire(timeout=30)
        wait_for(lambda: server.connections == 2, "a full house")
        # Whoever still sends is shown out to make room.
        wait_for(lambda: server.whole_requests == 2, "requests that are read to their end")
        third = callers.submit(ask, server.port)
        time.sleep(0.5)
        assert not third.done()
        ranker.leave.set()
        assert [caller.result()[0] for caller in (*first, third)] == [200] * 3


# ---------------------------------------------------------------- to the end


@pytest.mark.parametrize(
    "first", [b"", b"POST /rer", head(length=100) + b"{", request()], ids=["silent", "half a head", "half a body", "idle"]
)
def test_what_is_half_open_does_not_keep_the_server_from_stopping(first):
    with listening(ServingOptions(drain_seconds=30)) as server, connect(server.port, first) as connection:
        wait_for(lambda: server.connections == 1, "the arrival")
        time.sleep(0.2)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 15
        assert closed(connection, GENEROUS)


def test_the_rest_of_a_body_that_is_on_its_way_is_still_taken_at_the_end():
    whole = request(BODY, "/rerank")
    with listening() as server, connect(server.port, whole[:-10]) as connection, ThreadPoolExecutor() as others:
        wait_for(lambda: server.connections == 1, "the arrival")
        time.sleep(0.2)
        stopped = others.submit(server.stop)
        time.sleep(0.3)
        connection.sendall(whole[-10:])
        assert answer(connection)[0] == 200
        stopped.result()


# ---------------------------------------------------------------- what is not quite HTTP/1.1


def test_a_client_that_asks_for_http2_keeps_its_body():
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    with listening() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for _ in range(2):
            connection.request("POST", "/rerank", json.dumps(BODY).encode(), upgrade)
            reply = connection.getresponse()
            assert (reply.status, len(json.loads(reply.read())["results"])) == (200, 2)
        connection.close()


def test_the_parser_is_pinned(tmp_path):
    """With other parsers, which uvicorn would take where they can be imported, such a request has no body."""
    code = "from ko_reranker.serving.server import Server; from ko_reranker.serving import ServingOptions as O; "
    code += "s = Server(None, O()); print(s.config.http, s.config.loop)"
    for name in ("httptools", "uvloop"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["h11", "asyncio"], done.stderr


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"hello\r\n\r\n"])
def test_who_does_not_speak_http_gets_the_body_of_every_error(nonsense):
    with listening() as server, connect(server.port, nonsense) as connection:
        status, body = answer(connection)
        assert status == 400
        assert body["message"] == body["detail"] == body["error"]["message"]
