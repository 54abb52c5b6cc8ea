"""Web pages may call the API from a browser only where a setting says so, and read everything that it answers then."""

from __future__ import annotations

import json

import pytest
from public_api import KEY, PublicApi
from starlette.testclient import TestClient
from stub_ranker import StubRanker
from typer.testing import CliRunner

from ko_reranker.cli import app as command_line
from ko_reranker.protocol import cors_headers, is_origin, preflight_headers
from ko_reranker.serving import ServingOptions, create_app

PAGE, OTHER = "https://app.example.com", "https://evil.example.com"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
BODY = {"query": "질문", "documents": ["가", "나다"]}


def served(*origins: str) -> TestClient:
    return TestClient(create_app(StubRanker(), ServingOptions(cors_origins=origins)), raise_server_exceptions=False)


def called(method: str, headers: dict, *origins: str, body: bytes = b"") -> dict:
    event = {
        "httpMethod": method, "path": "/v2/rerank", "headers": headers, "body": body.decode() or None,
        "isBase64Encoded": False, "requestContext": {"requestId": "a1b2", "stage": "api"},
    }  # fmt: skip
    return PublicApi().answer(event, cors_origins=origins)


def test_by_default_no_page_is_let_in():
    with served() as client:
        assert client.options("/v2/rerank", headers=PREFLIGHT).status_code == 405
        answer = client.post("/v2/rerank", json=BODY, headers={"Origin": PAGE})
        assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("access-control")]
    assert called("OPTIONS", PREFLIGHT)["statusCode"] == 405


@pytest.mark.parametrize("origins", [(PAGE,), (OTHER, PAGE), ("*",)])
def test_a_page_that_is_let_in_may_send_its_key_and_read_the_answer(origins):
    with served(*origins) as client:
        asked = client.options("/v2/rerank", headers=PREFLIGHT)
        answer = client.post("/v2/rerank", json=BODY, headers={"Origin": PAGE})
        refused = client.post("/v2/rerank", json={}, headers={"Origin": PAGE})
    function = called("OPTIONS", PREFLIGHT, *origins)
    for status, headers in ((asked.status_code, asked.headers), (function["statusCode"], function["headers"])):
        assert status == 204
        assert headers["Access-Control-Allow-Origin"] in {PAGE, "*"}
        assert "POST" in headers["Access-Control-Allow-Methods"]
        assert {"Authorization", "Content-Type"} <= set(headers["Access-Control-Allow-Headers"].split(", "))
    assert (answer.status_code, refused.status_code) == (200, 422)
    there = called("POST", {"origin": PAGE, "x-api-key": KEY}, *origins, body=json.dumps(BODY).encode())
    assert there["statusCode"] == 200
    for headers in (answer.headers, refused.headers, there["headers"]):
        assert headers["Access-Control-Allow-Origin"] in {PAGE, "*"}


def test_another_page_is_not_let_in():
    with served(PAGE) as client:
        asked = client.options("/v2/rerank", headers=PREFLIGHT | {"Origin": OTHER})
        answer = client.post("/v2/rerank", json=BODY, headers={"Origin": OTHER})
    for headers in (asked.headers, answer.headers, called("OPTIONS", PREFLIGHT | {"Origin": OTHER}, PAGE)["headers"]):
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Vary"] == "Origin"


def test_options_that_is_no_preflight_is_refused_as_ever():
    with served(PAGE) as client:
        assert client.options("/v2/rerank").status_code == 405
    assert preflight_headers("OPTIONS", {"origin": PAGE}, [PAGE]) is None
    assert preflight_headers("POST", {name.lower(): value for name, value in PREFLIGHT.items()}, [PAGE]) is None
    assert cors_headers(None, [PAGE]) == {"Vary": "Origin"}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (PAGE, True), ("http://localhost:3000", True), ("*", True),
        ("https://App.example.com", False),
        ("app.example.com", False), ("https://app.example.com/", False), ("https://*.example.com", False), ("null", False),
    ],
)  # fmt: skip
def test_an_origin_is_written_as_browsers_send_it(text, right):
    assert is_origin(text) is right
    refused = CliRunner().invoke(command_line, ["serve", "--model", "/does-not-exist", "--cors-origin", text])
    assert ("is no origin" in refused.output) is not right
