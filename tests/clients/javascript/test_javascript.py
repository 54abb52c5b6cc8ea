"""JavaScript's clients, unmodified: URL and key change, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import DOCUMENTS, QUERY

HERE = Path(__file__).parent


@pytest.mark.parametrize("client", ["ai, cohere", "ai, bedrock", "cohere-ai", "cohere-ai, v2", "voyageai", "mixedbread"])
def test_a_javascript_client(client, expected, scores):
    told = {**os.environ, "QUERY": QUERY, "DOCUMENTS": json.dumps(DOCUMENTS)}
    done = subprocess.run(["node", "rerank.mjs", client], cwd=HERE, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ranked = json.loads(done.stdout)
    assert [index for index, _ in ranked] == expected[:2]
    assert [score for _, score in ranked] == pytest.approx([scores[index] for index in expected[:2]], abs=1e-6)
