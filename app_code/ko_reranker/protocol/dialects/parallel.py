"""``{"inputs": [...], "docs": [...]}``: the SageMaker tools of Dify, which repeat the query for every document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..errors import invalid
from ..fields import read_query, read_scoring
from ..ranking import scores

NAME = "parallel"
LISTS = ("docs", "inputs")


def matches(body: Mapping[str, Any]) -> bool:
    return "inputs" in body and "docs" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    documents = read_documents(body["docs"], "docs")
    inputs = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
    if len(inputs) not in {1, len(documents)}:
        raise invalid("inputs", f"must be one query, or {len(documents)}: one for each of docs; are {len(inputs)}")
    queries = tuple(read_query(query, f"inputs[{index}]") for index, query in enumerate(inputs))
    return RerankRequest(dialect=NAME, queries=queries, documents=documents, **read_scoring(body))


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {"scores": scores(request, result)}
