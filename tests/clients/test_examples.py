"""The worked examples of docs/examples and docs/api.md run, and find what they are asked for."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from ko_reranker.client import RerankClient

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
QUESTION = "어텐션 마스크는 무엇을 하나요?"


@pytest.mark.parametrize("name", ["rag_langchain", "rag_llamaindex"])
def test_an_example_gives_a_prompt_with_the_best_passages_at_both_ends(name, url, key):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    prompt = example.prompt_for(QUESTION, url, key)
    assert prompt.startswith("다음 글만 보고") and prompt.rstrip().endswith(QUESTION)
    with RerankClient(url, key) as client:
        best, second, third = (item.document for item in client.rerank(QUESTION, example.PASSAGES, top_n=example.KEPT))
    shown = sorted((passage for passage in example.PASSAGES if passage in prompt), key=prompt.index)
    assert shown == [best, third, second]


def test_the_lines_of_the_api_page_run_as_they_stand(url, key):
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "api.md").read_text(), re.DOTALL | re.MULTILINE)
    real = {"https://YOUR_API": url, "YOUR_KEY": key, "ko-reranker-prod": os.environ["RERANK_ENDPOINT"]}
    assert len(blocks) == 2
    for block in blocks:
        for name, value in real.items():
            block = block.replace(name, value)
        given: dict = {}
        exec(compile(block, "docs/api.md", "exec"), given)  # noqa: S102 - the page's own lines
        assert all(0 < item.score < 1 for item in given["ranking"])
