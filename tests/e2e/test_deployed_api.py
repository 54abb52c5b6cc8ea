"""The rerank API as it is deployed: keys, descriptions, limits."""

from __future__ import annotations

import json

import httpx
import pytest
import schemathesis
from deployed_stage import Deployed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ko_reranker.client import AuthenticationError, RerankClient
from ko_reranker.operations import api_keys

DOCUMENTS = ["부산은 항구다.", "서울의 인구는 940만 명이다."]
BODY = {"query": "서울의 인구는?", "documents": DOCUMENTS}


def test_a_key_is_made_works_and_is_refused_once_it_is_disabled(deployed: Deployed) -> None:
    stage = deployed.stage
    value = api_keys.create(stage, "search-team", "trial")
    with RerankClient(stage.api_url, value) as client:
        assert len(client.rerank(BODY["query"], DOCUMENTS)) == 2
        listed = {key.name: key for key in api_keys.keys(stage)}
        assert (listed["search-team"].tier, listed["first"].tier) == ("trial", "standard")
        api_keys.disable(stage, "search-team")
        assert {key.name: key.enabled for key in api_keys.keys(stage)}["search-team"] is False
        with pytest.raises(AuthenticationError):
            client.rerank(BODY["query"], DOCUMENTS)


def test_an_unknown_key_is_refused(deployed: Deployed) -> None:
    with RerankClient(deployed.stage.api_url, "w" * 30) as client, pytest.raises(AuthenticationError):
        client.rerank(BODY["query"], DOCUMENTS)


def test_the_service_tells_what_it_serves(deployed: Deployed) -> None:
    stage = deployed.stage
    headers = {"api-key": stage.api_key}
    info = httpx.get(f"{stage.api_url}/info", headers=headers, timeout=30).json()
    models = httpx.get(f"{stage.api_url}/v1/models", headers=headers, timeout=30).json()
    assert models["data"][0]["id"] == info["model_id"]
    assert info["max_input_length"] > 0
    assert httpx.get(f"{stage.api_url}/v1/models", timeout=30).status_code == 401
    assert "/v2/rerank" in httpx.get(f"{stage.api_url}/openapi.json", timeout=30).json()["paths"]


@pytest.mark.parametrize(
    "path",
    ["/v1/retrieval/any/model/reranking", "/infinity/rerank", "/score", "/v1/reranking", "/v2/rerank/", "//v1//rerank"],
)
def test_every_kind_of_route_reaches_the_function(deployed: Deployed, path: str) -> None:
    headers = {"Authorization": deployed.stage.api_key}
    assert httpx.post(deployed.stage.api_url + path, json=BODY, headers=headers, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/", 404), ("GET", "/nowhere", 404), ("GET", "/v2/rerank", 405), ("DELETE", "/v1/models", 405)],
)
def test_a_wrong_path_or_method_is_told_by_the_function(deployed: Deployed, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, deployed.stage.api_url + path, headers={"api-key": deployed.stage.api_key}, timeout=30)
    said = answer.json()
    assert answer.status_code == status == said["error"]["code"]
    assert said["message"] == said["detail"] == said["error"]["message"]
    assert answer.headers.get("Allow") == {404: None, 405: "GET" if path == "/v1/models" else "POST"}[status]


def test_the_description_is_true_of_what_is_deployed(deployed: Deployed) -> None:
    stage = deployed.stage
    document = httpx.get(f"{stage.api_url}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.phases.coverage.enabled = False

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation=st.data())
    def ask(operation: st.DataObject) -> None:
        case = operation.draw(st.one_of(found.ok().as_strategy() for found in schema.get_all_operations()))
        case.call_and_validate(base_url=stage.api_url, headers={"Authorization": f"Bearer {stage.api_key}"})

    ask()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 5_000,
        b'{"query": null, "documents": null}',
        b'{"query": "a", "query": "b", "documents": ["\\ud83d", "\\u0000", ""], "documents": [{"a": {"b": [1, null]}}]}',
        json.dumps({"query": "a", "documents": ["가" * 1_000_000]}).encode(),  # 6 MB of escaped Korean
        b"\xff\xfe",
    ],
    ids=["cut off", "nested", "nulls", "duplicates and surrogates", "6 MB escaped", "not UTF-8"],
)
def test_a_hostile_body_is_never_a_server_error(deployed: Deployed, content: bytes) -> None:
    headers = {"x-api-key": deployed.stage.api_key, "Content-Type": "application/json"}
    answer = httpx.post(f"{deployed.stage.api_url}/v2/rerank", content=content, headers=headers, timeout=60)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        said = answer.json()
        assert said["message"] == said["detail"] == said["error"]["message"]
