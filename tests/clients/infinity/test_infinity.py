"""Infinity's own client: URL and key change, nothing else."""

from __future__ import annotations

import pytest
from conftest import DOCUMENTS, QUERY
from infinity_client import AuthenticatedClient
from infinity_client.api.default import rerank
from infinity_client.models import RerankInput


def test_infinity(url, key, expected, scores):
    client = AuthenticatedClient(base_url=f"{url}/infinity", token=key)
    body = RerankInput(query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=2)
    answer = rerank.sync(client=client, body=body)
    assert [item.index for item in answer.results] == expected[:2]
    assert [item.document for item in answer.results] == [DOCUMENTS[index] for index in expected[:2]]
    assert answer.results[0].relevance_score == pytest.approx(scores[expected[0]], abs=1e-6)
