"""The clients against an HTTP transport that says what the test tells it."""

from __future__ import annotations

import asyncio
import json

import boto3
import httpx
import pytest

from ko_reranker.client import (
    AsyncRerankClient,
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    RateLimitError,
    RerankClient,
    ServerError,
    TimedOutError,
    fuse,
)
from ko_reranker.client.retries import Retries
from ko_reranker.protocol import ProtocolError, RerankResult, parse_request, render_response

DOCUMENTS = ["부산은 항구다.", {"text": "서울의 인구는 940만 명이다.", "id": 7}]
QUICK = Retries(first_wait=0.001)


def ranked(request: httpx.Request) -> httpx.Response:
    """Answer as the service does, with the protocol's own functions."""
    rerank = parse_request(json.loads(request.content), "/v2/rerank")
    count = len(rerank.documents)
    result = RerankResult(tuple(map(float, range(count))), (7,) * count, (False,) * count, "run-1", id="0b0c")
    return httpx.Response(200, json=render_response(rerank, result))


def refused(status: int, message: str = "m", param: str | None = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=ProtocolError(status, message, param).body(), headers=headers)


class Service:
    """Answers with one of the acts after the other, then ranks."""

    def __init__(self, *acts: httpx.Response | Exception) -> None:
        self.acts = list(acts)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        act = self.acts.pop(0) if self.acts else ranked(request)
        if isinstance(act, Exception):
            raise act
        return act

    def client(self, **options) -> RerankClient:
        return RerankClient("https://host/", "k" * 20, transport=httpx.MockTransport(self), retries=QUICK, **options)


def test_documents_come_back_as_they_were_given():
    service = Service()
    with service.client() as client:
        ranking = client.rerank("질문", DOCUMENTS, top_n=1)
    assert [(item.index, item.document) for item in ranking] == [(1, DOCUMENTS[1])]
    assert 0 < ranking[0].score < 1
    assert (ranking.model, ranking.tokens, ranking.request_id, ranking.warnings) == ("run-1", 14, "0b0c", ())
    [request] = service.requests
    assert str(request.url) == "https://host/v2/rerank"
    assert request.headers["authorization"] == "Bearer " + "k" * 20
    assert json.loads(request.content) == {"query": "질문", "documents": DOCUMENTS, "top_n": 1}


def test_the_async_client_does_the_same():
    async def ask() -> list[int]:
        service = Service(refused(429, **{"Retry-After": "0"}))
        async with AsyncRerankClient("https://host", transport=httpx.MockTransport(service), retries=QUICK) as client:
            return [item.index for item in await client.rerank("질문", DOCUMENTS, order="lost_in_the_middle")]

    assert asyncio.run(ask()) == [1, 0]


def test_the_best_stand_at_both_ends_where_that_is_asked():
    async def ask() -> list[int]:
        async with AsyncRerankClient("https://host", transport=httpx.MockTransport(Service())) as client:
            return [item.index for item in await client.rerank("질문", list("가나다라"), order="lost_in_the_middle")]

    with Service().client() as client:
        ranking = client.rerank("질문", list("가나다라"), order="lost_in_the_middle")
    assert [item.index for item in ranking] == asyncio.run(ask()) == [3, 1, 0, 2]


def test_every_option_reaches_the_service():
    service = Service()
    options = {"rank_fields": ["text"], "max_tokens_per_doc": 64, "max_chunks_per_doc": 2, "raw_scores": True, "model": "m"}
    with service.client() as client:
        assert client.rerank("질문", DOCUMENTS, top_n=2, order="relevance", **options).model == "m"
    sent = json.loads(service.requests[0].content)
    assert sent == {"query": "질문", "documents": DOCUMENTS, "top_n": 2, "order": "relevance", **options}


def test_it_comes_again_when_the_service_says_so(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("ko_reranker.client.clients.time.sleep", waits.append)
    service = Service(refused(429, **{"Retry-After": "7"}), refused(503), httpx.ConnectError("no route"))
    with service.client() as client:
        assert len(client.rerank("질문", DOCUMENTS)) == 2
    assert waits[0] == 7.0
    assert len(service.requests) == 4


def test_a_wait_past_the_longest_is_the_callers_to_decide():
    service = Service(refused(429, "the quota of this key is used up", **{"Retry-After": "3600"}))
    with service.client() as client, pytest.raises(RateLimitError, match="quota"):
        client.rerank("질문", DOCUMENTS)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (403, AuthenticationError), (422, InvalidRequestError), (500, ServerError)],
)
def test_what_coming_again_does_not_help_is_raised_at_once(status, kind):
    service = Service(refused(status, "documents[1]: is wrong", "documents[1]", **{"x-request-id": "abc"}))
    with service.client() as client, pytest.raises(kind) as caught:
        client.rerank("질문", DOCUMENTS)
    error = caught.value
    assert (error.status, error.param, error.request_id) == (status, "documents[1]", "abc")
    assert len(service.requests) == 1


def test_a_slow_service_is_not_asked_twice():
    service = Service(httpx.ReadTimeout("slow"))
    with service.client(timeout=3) as client, pytest.raises(TimedOutError, match="3 s"):
        client.rerank("질문", DOCUMENTS)
    assert len(service.requests) == 1


def test_a_service_that_is_not_there_is_said_so():
    service = Service(*[httpx.ConnectError("refused")] * 9)
    with service.client() as client, pytest.raises(ConnectionFailedError, match="can't be reached"):
        client.rerank("질문", DOCUMENTS)
    assert len(service.requests) == QUICK.attempts


@pytest.mark.parametrize(
    "content", [b"<html>Sign in</html>", b"[]", b"{}", b'{"results": [{"index": 9, "relevance_score": 1.0}]}']
)
def test_an_answer_that_is_no_ranking_is_said_so(content):
    service = Service(httpx.Response(200, content=content))
    with service.client() as client, pytest.raises(ServerError, match="base_url"):
        client.rerank("질문", DOCUMENTS)
    assert len(service.requests) == 1


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v2/", "/v1/v2", "//"])
def test_a_base_url_may_end_in_a_version_as_other_clients_want_it(end):
    service = Service()
    with RerankClient("https://host" + end, "key", transport=httpx.MockTransport(service)) as client:
        client.rerank("질문", ["문서"])
    assert str(service.requests[-1].url) == "https://host/v2/rerank"


@pytest.mark.parametrize("base_url", ["", "rerank.example.com", "ftp://rerank.example.com"])
def test_a_base_url_that_is_none_is_refused_at_once(base_url):
    for kind in (RerankClient, AsyncRerankClient):
        with pytest.raises(ValueError, match="https://"):
            kind(base_url)


def test_a_sagemaker_endpoint_is_asked_with_a_signature():
    wrapped = {"OriginalStatusCode": 429, "OriginalMessage": json.dumps(ProtocolError(429, "busy").body()), "Message": "…"}
    service = Service(httpx.Response(424, json=wrapped))
    session = boto3.session.Session("AKID", "secret", "token", region_name="ap-northeast-2")
    target = {"session": session, "transport": httpx.MockTransport(service), "retries": QUICK}
    with RerankClient.for_endpoint("live", **target) as client:
        assert len(client.rerank("질문", DOCUMENTS)) == 2
    request = service.requests[-1]
    assert str(request.url) == "https://runtime.sagemaker.ap-northeast-2.amazonaws.com/endpoints/live/invocations"
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
    assert request.headers["x-amz-security-token"] == "token"
    assert len(service.requests) == 2


@pytest.mark.parametrize("options", [{}, {"raw_scores": True}, {"top_n": 2}, {"order": "lost_in_the_middle"}])
def test_with_first_stage_scores_the_order_is_that_of_both_and_the_scores_stay_the_models(options):
    documents, first_stage = ["가", "나", "다"], [9.0, 0.0, 3.0]  # the service's logits are 0, 1, 2
    service = Service()
    with service.client() as client:
        plain = {
            item.index: item.score for item in client.rerank("질문", documents, raw_scores=options.get("raw_scores", False))
        }
        found = client.rerank("질문", documents, first_stage_scores=first_stage, first_stage_weight=0.6, **options)
    fused = fuse(first_stage, [0, 1, 2], weight=0.6)
    best_first = sorted(range(3), key=lambda index: -fused[index])
    expected = [best_first[0], best_first[2], best_first[1]] if "order" in options else best_first[: options.get("top_n")]
    assert [item.index for item in found] == expected
    assert [item.score for item in found] == pytest.approx([plain[index] for index in expected])
    sent = json.loads(service.requests[-1].content)
    assert sent["raw_scores"] is True and "top_n" not in sent and "order" not in sent


def test_the_async_client_fuses_alike():
    async def ask():
        async with AsyncRerankClient("https://host", transport=httpx.MockTransport(Service())) as client:
            return await client.rerank("질문", ["가", "나"], first_stage_scores=[5.0, 1.0], first_stage_weight=0.9)

    assert [item.index for item in asyncio.run(ask())] == [0, 1]


@pytest.mark.parametrize("wrong", [{"first_stage_scores": [1.0]}, {"first_stage_scores": [1.0, 2.0], "first_stage_weight": 2}])
def test_first_stage_scores_that_do_not_fit_are_refused_before_anything_is_sent(wrong):
    service = Service()
    with service.client() as client, pytest.raises(ValueError, match=r"give one each|weight"):
        client.rerank("질문", DOCUMENTS, **wrong)
    assert not service.requests
