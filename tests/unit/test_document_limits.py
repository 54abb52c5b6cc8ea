"""What a key may send: documents a request by its tier, and documents a minute, counted by the key's id in DynamoDB."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto import mock_aws
from sagemaker_server import SageMakerServer

from ko_reranker.protocol import ProtocolError

FOLDER = Path(__file__).parents[2] / "lambda" / "rerank"
KEY, KEY_ID = "kor_trial_" + "5eC2et" * 6 + "abcd", "k1e2y3i4d5"
LIMITS = {
    "standard": {"documents_per_request": 400, "documents_per_minute": None},
    "trial": {"documents_per_request": 5, "documents_per_minute": 12},
}


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(FOLDER))
    try:
        import document_counts
        import model_endpoint
        import reranking
        import tiers

        yield reranking, model_endpoint, document_counts, tiers
    finally:
        sys.path.remove(str(FOLDER))


class Table:
    """DynamoDB over HTTP: moto decides, or the test does."""

    def __init__(self, server: SageMakerServer, client: Any) -> None:
        self.server, self.client, self._lock = server, client, threading.Lock()
        client.create_table(
            TableName="counts",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.works()

    def works(self) -> None:
        self.server.waiting.clear()
        self.server.waiting.extend([self._act] * 200)

    def fails(self, how: str) -> None:
        self.server.waiting.clear()
        if how == "denies":
            self.server.fails("com.amazonaws.dynamodb.v20120810#AccessDeniedException")
        elif how == "throttles":
            self.server.fails("ProvisionedThroughputExceededException")
        elif how == "hangs up":
            self.server.cuts_off()
        elif how == "hangs":
            self.server.sleeps(2.0)
        else:
            self.server.answers(b"<html>")

    def items(self) -> list[dict[str, Any]]:
        return self.client.scan(TableName="counts")["Items"]

    def _act(self, handler: Any, body: bytes) -> None:
        try:
            with self._lock:  # moto is not made for threads; what DynamoDB promises of one item is what is wanted of it
                answer = self.client.update_item(**json.loads(body))
            handler.reply(200, json.dumps({"Attributes": answer["Attributes"]}).encode())
        except ClientError as error:
            kind = f"com.amazonaws.dynamodb.v20120810#{error.response['Error']['Code']}"
            said = {"__type": kind, **{name: error.response[name] for name in ("Item",) if name in error.response}}
            handler.reply(400, json.dumps(said).encode())


@pytest.fixture
def api(modules, capsys):
    with mock_aws(), SageMakerServer() as model, SageMakerServer() as dynamodb:
        yield Api(modules, model, Table(dynamodb, boto3.client("dynamodb", "ap-northeast-2")), capsys)


class Api:
    def __init__(self, modules, model, table, capsys):
        self.reranking, model_endpoint, document_counts, tiers = modules
        runtime = sys.modules["sagemaker_runtime"]
        environment = {"AWS_REGION": "ap-northeast-2", "AWS_ENDPOINT_URL": model.url}
        self.endpoint = model_endpoint.ModelEndpoint("e", runtime.RuntimeClient.from_environment(environment))
        environment["AWS_ENDPOINT_URL_DYNAMODB"] = table.server.url
        self.counts_client = document_counts.CountsClient.from_environment(environment)
        self.counts_client.answer_seconds = 10.0  # moto may be slow on a busy machine
        self.now = 1_000_020.0
        self.counts = document_counts.DocumentCounts("counts", self.counts_client, clock=lambda: self.now)
        self.settings = self.reranking.Settings("e", tiers=tiers.read_tiers(json.dumps(LIMITS)), counts_table="counts")
        self.model, self.table, self._capsys = model, table, capsys

    def __call__(self, documents, *, tier="trial", key_id=KEY_ID, path="/v2/rerank", method="POST"):
        self.model.waiting.clear()
        self.model.score_with(len)
        event = {
            "httpMethod": method,
            "path": path,
            "headers": {"content-type": "application/json", "x-api-key": KEY},
            "body": json.dumps({"query": "질문", "documents": [f"문서 {place}" for place in range(documents)]}),
            "requestContext": {
                "requestId": "r1",
                "identity": {"apiKeyId": key_id, "apiKey": KEY},
                "authorizer": {"tier": tier, "principalId": "p"},
            },
        }
        response = self.reranking.answer(event, self.endpoint, self.settings, self.counts)
        self.log = self._capsys.readouterr().out
        headers = {name.lower(): value for name, value in response["headers"].items()}
        return response["statusCode"], json.loads(response["body"]), headers


def test_a_tier_says_how_many_documents_a_request_may_have(api):
    status, body, _ = api(6)
    assert (status, body["error"]["param"]) == (422, "documents")
    assert "limit of 5" in body["message"]
    assert not api.table.items(), "a request that is refused for itself is not counted"
    assert api(6, tier="standard")[0] == 200


@pytest.mark.parametrize("tier", ["", "gold", None])
def test_a_key_without_a_tier_of_ours_is_of_the_first(api, tier):
    assert api(400, tier=tier)[0] == 200
    assert api(401, tier=tier)[0] == 422


def test_what_a_service_tells_of_itself_has_the_limit_of_the_key(api):
    for tier, most in (("trial", 5), ("standard", 400)):
        event = {"httpMethod": "GET", "path": "/info", "requestContext": {"authorizer": {"tier": tier}}}
        api.model.waiting.clear()
        api.model.answers(b'{"model": "m", "max_length": 512}')
        answer = api.reranking.answer(event, api.endpoint, api.settings, api.counts)
        assert json.loads(answer["body"])["max_client_batch_size"] == most


def test_a_minute_has_so_many_documents_and_the_headers_tell_what_is_left(api):
    for documents, left in ((5, 7), (4, 3), (3, 0)):
        status, _, headers = api(documents)
        told = {name: headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")}
        assert (status, told) == (200, {"limit": "12", "remaining": str(left), "reset": "60"})
    calls = len(api.model.requests)
    status, body, headers = api(1)
    assert (status, headers["retry-after"], headers["x-ratelimit-remaining"]) == (429, "60", "0")
    assert "0 of 12 documents are left" in body["message"]
    assert len(api.model.requests) == calls, "what is refused costs no model time"
    api.now = 1_000_080.0
    assert (api(5)[0], api(5)[2]["x-ratelimit-remaining"]) == (200, "2")


def test_what_does_not_fit_any_more_is_not_counted_and_less_still_passes(api):
    api.now = 1_000_070.5
    assert [api(5)[0], api(5)[0], api(3)[0]] == [200, 200, 429]
    status, _, headers = api(2)
    assert (status, headers["x-ratelimit-remaining"], headers["x-ratelimit-reset"]) == (200, "0", "10")


def test_keys_are_counted_apart_and_by_their_ids_only(api):
    for key_id in ("one", "other"):
        assert api(5, key_id=key_id)[2]["x-ratelimit-remaining"] == "7"
    [one, other] = sorted(api.table.items(), key=lambda item: item["id"]["S"])
    assert (one["id"]["S"], one["documents"]["N"], one["expires"]["N"]) == ("one/16667", "5", "1000620")
    assert other["id"]["S"] == "other/16667"
    sent = b"".join(body for _, _, body in api.table.server.requests)
    assert KEY.encode() not in sent and KEY not in api.log


def test_requests_at_the_same_time_never_pass_the_limit_together(api):
    def count(_: int) -> bool:
        try:
            api.counts.count("busy", 5, 12)
        except ProtocolError:
            return False
        return True

    with ThreadPoolExecutor(8) as callers:
        assert sum(callers.map(count, range(16))) == 2


def test_a_tier_without_a_limit_asks_no_table_and_tells_nothing(api):
    _, _, headers = api(10, tier="standard")
    assert not api.table.server.requests
    assert not [name for name in headers if "ratelimit" in name]


@pytest.mark.parametrize("how", ["denies", "throttles", "hangs up", "hangs", "talks nonsense"])
def test_when_the_table_fails_nobody_is_refused_and_the_log_tells(api, how):
    api.table.fails(how)
    if how == "hangs":
        api.counts_client.answer_seconds = 0.1
    status, _, headers = api(5)
    line = json.loads(api.log)
    assert (status, line["uncounted"], line["documents"]) == (200, 1, 5)
    assert line["uncounted_cause"] and "count_latency" in line
    assert "uncounted" in {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert not [name for name in headers if "ratelimit" in name]
    api.table.works()
    api.counts_client.answer_seconds = 10.0
    assert api(5)[2]["x-ratelimit-remaining"] == "7"


def test_the_signature_for_the_table_is_the_one_that_botocore_makes(api):
    api(1)
    [(path, headers, body)] = api.table.server.requests
    assert (path, headers["X-Amz-Target"]) == ("/", "DynamoDB_20120810.UpdateItem")
    signed = headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    sent = {name: value for name, value in headers.items() if name.lower() in signed}
    request = AWSRequest("POST", api.table.server.url + path, sent, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    signer = SigV4Auth(Credentials(*(os.environ[name] for name in names)), "dynamodb", "ap-northeast-2")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["Authorization"].endswith(signer.signature(text, request))


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {"documents_per_minute": 0}}', '{"a": {"documents": 1}}', '{"a": 5}'])
def test_tiers_that_are_none_are_named_at_cold_start(modules, text):
    reranking = modules[0]
    with pytest.raises(reranking.WrongVariable, match="TIERS"):
        reranking.Settings.from_environment({"ENDPOINT_NAME": "e", "TIERS": text})


def test_a_long_query_is_not_sent_with_every_part(api):
    query, documents = "가" * 400_000, [f"{place}" for place in range(5_000)]
    event = {"httpMethod": "POST", "path": "/rerank", "body": json.dumps({"query": query, "documents": documents})}
    settings = api.reranking.Settings("e")
    answer = api.reranking.answer(event, api.endpoint, settings)
    assert (answer["statusCode"], json.loads(answer["body"])["error"]["param"]) == (422, "query")
    assert not api.model.requests
