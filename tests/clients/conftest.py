"""Where the API is, and what the model behind it says: what every client has to come to."""

from __future__ import annotations

import os

import httpx
import pytest

# Only `run.py` knows a stack to ask; `make test` passes these files by.
collect_ignore_glob = [] if "RERANK_URL" in os.environ else ["test_*.py", "*/test_*.py"]

QUERY = "어텐션 마스크는 무엇을 하나요?"
DOCUMENTS = [
    "부산은 바다를 낀 항구 도시입니다.",
    "어텐션 마스크는 모델이 채움 토큰을 보지 않게 합니다.",
    "김치찌개에는 돼지고기와 두부를 넣습니다.",
]


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["RERANK_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    return os.environ["RERANK_KEY"]


@pytest.fixture(scope="session")
def scores(url: str, key: str) -> list[float]:
    """The relevance of each document, in their order."""
    body = {"inputs": [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]}
    answer = httpx.post(f"{url}/rerank", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    return [item["score"] for item in answer.raise_for_status().json()]


@pytest.fixture(scope="session")
def expected(scores: list[float]) -> list[int]:
    """The documents' places, best first."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])
