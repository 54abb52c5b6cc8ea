"""The rerank API as it is deployed: keys, descriptions, limits."""

from __future__ import annotations

import json

import httpx
import pytest
import schemathesis
from deployed_stage import Deployed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ko_reranker.client import AuthenticationError, RateLimitError, RerankClient
from ko_reranker.client.retries import Retries
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


def test_with_credentials_the_endpoint_itself_is_asked(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = deployed.stage
    for name, value in deployed.cloud.environment().items():
        monkeypatch.setenv(name, value)
    with RerankClient(stage.api_url, stage.api_key) as client:
        public = client.rerank(BODY["query"], DOCUMENTS)
    with RerankClient.for_endpoint(stage.output("EndpointName")) as client:
        assert client.rerank(BODY["query"], DOCUMENTS).results == public.results
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFNOBODY00000000")
    with RerankClient.for_endpoint(stage.output("EndpointName")) as client, pytest.raises(AuthenticationError):
        client.rerank(BODY["query"], DOCUMENTS)


def test_an_unknown_key_is_refused(deployed: Deployed) -> None:
    with RerankClient(deployed.stage.api_url, "w" * 30) as client, pytest.raises(AuthenticationError):
        client.rerank(BODY["query"], DOCUMENTS)


@pytest.mark.parametrize(
    ("name", "limits", "error_type", "retry_after"),
    [
        ("throttle", {"throttle": {"rateLimit": 0.01, "burstLimit": 1}}, "overloaded", "1"),
        ("quota", {"quota": {"limit": 1, "period": "MONTH"}}, "quota", "3600"),
    ],
)
def test_past_a_keys_limit_the_answer_tells_when_to_come_again(
    deployed: Deployed, name: str, limits: dict, error_type: str, retry_after: str
) -> None:
    gateway = deployed.stage.client("apigateway")
    plans = gateway.get_usage_plans()["items"]
    stages = next(plan["apiStages"] for plan in plans if plan["name"] == f"{deployed.stage.prefix}-standard")
    plan = gateway.create_usage_plan(name=f"test-{name}", apiStages=stages, **limits)
    key = gateway.create_api_key(name=f"test-{name}", enabled=True)
    gateway.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    url, headers = f"{deployed.stage.api_url}/v2/rerank", {"Authorization": f"Bearer {key['value']}"}
    first, second = (httpx.post(url, json=BODY, headers=headers, timeout=30) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    said = second.json()
    assert (said["error_type"], second.headers["Retry-After"]) == (error_type, retry_after)
    assert said["message"] == said["detail"] == said["error"]["message"]
    impatient = RerankClient(deployed.stage.api_url, key["value"], retries=Retries(attempts=1))
    with impatient as client, pytest.raises(RateLimitError, match=said["message"]):
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
    [
        ("POST", "/", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/rerank", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("PUT", "/openapi.json", 405),
    ],
)
def test_a_wrong_path_or_method_is_told_by_the_function(deployed: Deployed, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, deployed.stage.api_url + path, headers={"api-key": deployed.stage.api_key}, timeout=30)
    said = answer.json()
    assert answer.status_code == status == said["error"]["code"]
    assert said["message"] == said["detail"] == said["error"]["message"]
    assert answer.headers.get("Allow") == {404: None, 405: "POST" if path == "/v2/rerank" else "GET, HEAD"}[status]


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
