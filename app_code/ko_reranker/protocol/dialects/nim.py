"""``{"query": {"text"}, "passages": [{"text"}]}``: NVIDIA NIM, answered with raw logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..fields import read_query, read_scoring
from ..ranking import ranked, scores

NAME = "nim"
LISTS = ("passages",)


def matches(body: Mapping[str, Any]) -> bool:
    return "passages" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    return RerankRequest(
        dialect=NAME,
        queries=(read_query(body.get("query")),),
        documents=read_documents(body["passages"], "passages"),
        raw_scores=True,
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    values = scores(request, result)
    tokens = sum(result.tokens)
    return {
        "rankings": [{"index": index, "logit": values[index]} for index in ranked(request, result)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
