"""`ko-reranker rerank` and the clients, over HTTP against the authorizer and the rerank function."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from public_api import KEY, PublicApi
from typer.testing import CliRunner, Result

from ko_reranker.cli import app
from ko_reranker.client import AsyncRerankClient, AuthenticationError, InvalidRequestError, RerankClient
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

QUERY = "서울의 인구는?"
# The model prefers long documents.
DOCUMENTS = ["가" * 200, {"title": "나", "body": "다" * 300}, "라\u2028" + "마" * 5]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with make_server("127.0.0.1", 0, PublicApi(), handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def rerank(url, monkeypatch):
    """Return a caller of the command, on a stage whose API is this one."""
    stage = SimpleNamespace(api_url=url, api_key=KEY)
    monkeypatch.setattr(Stage, "connect", lambda *_, **__: stage)

    def call(*arguments: str, documents: list = DOCUMENTS) -> Result:
        lines = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in documents]
        return CliRunner().invoke(app, ["rerank", "-q", QUERY, *arguments], input="\n".join(lines) + "\n\n")

    return call


def test_every_document_is_a_line_the_best_first(rerank):
    done = rerank()
    assert done.exit_code == 0, done.output
    scores = [line.split()[0] for line in done.stdout.removesuffix("\n").split("\n")]
    assert len(scores) == 3 and all(0 <= float(score) <= 1 for score in scores)
    assert DOCUMENTS[0] in done.stdout


def test_json_lines_are_whole_however_long(rerank):
    found = [json.loads(line) for line in rerank("--json").stdout.removesuffix("\n").split("\n")]
    assert [item["index"] for item in found] == [1, 0, 2]
    assert [item["document"] for item in found] == [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2]]


def test_the_best_only_and_in_the_order_asked_for(rerank):
    assert len(rerank("--top-n", "1").stdout.removesuffix("\n").split("\n")) == 1
    done = rerank("--json", "--order", "lost_in_the_middle")
    assert [json.loads(line)["index"] for line in done.stdout.removesuffix("\n").split("\n")] == [1, 2, 0]


def test_documents_come_from_a_file_too(rerank, tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "[bold]짧다"}\n길고 긴 문서이다\n', encoding="utf-8")
    done = rerank(str(path))
    assert [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()] == ["길고 긴 문서이다", "[bold]짧다"]


@pytest.mark.parametrize(
    ("arguments", "documents", "said"), [((), [], "no documents"), (("--order", "random"), DOCUMENTS, "lost_in_the_middle")]
)
def test_what_cannot_be_ranked_is_told(rerank, arguments, documents, said):
    done = rerank(*arguments, documents=documents)
    assert isinstance(done.exception, OperationError)
    assert said in str(done.exception)


def test_the_clients_agree_with_the_function(url):
    async def ask() -> list[int]:
        async with AsyncRerankClient(url, KEY) as client:
            return [item.index for item in await client.rerank(QUERY, DOCUMENTS)]

    with RerankClient(url, KEY) as client:
        assert [item.index for item in client.rerank(QUERY, DOCUMENTS)] == asyncio.run(ask()) == [1, 0, 2]
        with pytest.raises(InvalidRequestError) as caught:
            client.rerank(QUERY, ["가"] * 10_001)
        assert caught.value.param == "documents"
    with RerankClient(url, "w" * 30) as client, pytest.raises(AuthenticationError):
        client.rerank(QUERY, DOCUMENTS)
